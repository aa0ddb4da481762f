"""`python scripts/data.py ...` is `detr-mini data ...`."""

import sys

from detr_mini.cli import main

sys.exit(main(["data", *sys.argv[1:]]))
