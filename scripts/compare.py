"""`python scripts/compare.py ...` is `detr-mini compare ...`."""

import sys

from detr_mini.cli import main

sys.exit(main(["compare", *sys.argv[1:]]))
