"""`python scripts/benchmark.py ...` is `detr-mini benchmark ...`."""

import sys

from detr_mini.cli import main

sys.exit(main(["benchmark", *sys.argv[1:]]))
