"""`python scripts/train.py ...` is `detr-mini train ...`."""

import sys

from detr_mini.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
