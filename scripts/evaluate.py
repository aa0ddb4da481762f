"""`python scripts/evaluate.py ...` is `detr-mini evaluate ...`."""

import sys

from detr_mini.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
