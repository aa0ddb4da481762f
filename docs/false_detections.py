"""How often a detector reports something in images that show none of its objects.

python docs/false_detections.py CHECKPOINT FOLDER
"""

from __future__ import annotations

import sys

from detr_mini.inference.detector import load
from detr_mini.inference.sources import find_pictures


def main(checkpoint: str, folder: str) -> None:
    """Print the number of detections above the detector's own threshold, and of images that have one."""
    detector = load(checkpoint)
    pictures = find_pictures(folder)
    counts = [len(detector.detect(picture.path)) for picture in pictures]
    print(f"{sum(counts)} detections in {len(counts)} images, {sum(map(bool, counts))} of which have one "
          f"(threshold {detector.operating_point.threshold:.2f})")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
