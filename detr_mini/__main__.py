"""`python -m detr_mini` is `detr-mini`."""

import sys

from detr_mini.cli import main

sys.exit(main())
