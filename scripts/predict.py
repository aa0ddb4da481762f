"""`python scripts/predict.py ...` is `detr-mini predict ...`."""

import sys

from detr_mini.cli import main

sys.exit(main(["predict", *sys.argv[1:]]))
