"""Exported files with captions beside their checkpoint, on made scenes.

    python docs/caption_parity.py [CHECKPOINT] [SCENES]

The checkpoint (shapes_captions) is exported for raw pixels in each format and precision. Every caption of SCENES (100)
scenes, and the list of the categories' names, is asked of both. One line for each file says how many answers above
0.05, and at least the five best of each caption, have a partner, and how far partners are apart.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from detr_mini.captions.captions_of_split import read_captions
from detr_mini.captions.made_dataset import ensure_captioned
from detr_mini.deploy.agreement import TOLERANCES, compare
from detr_mini.deploy.detector import open_exported
from detr_mini.deploy.export import CAPTION_FORMATS, CAPTION_PRECISIONS, Choice, export_detector
from detr_mini.formats.coco import read_coco
from detr_mini.inference.detector import load
from detr_mini.inference.requests import USUAL_LIMIT


def main(checkpoint: str, count: int) -> None:
    """Print a table."""
    detector = load(checkpoint)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "scenes"
        ensure_captioned(root, train=1, val=count, test=1, size=int(detector.image["size"]), processes=1)
        scenes = read_coco(root / "annotations/val.json", root / "val")
        captions = read_captions(root / "annotations/val_captions.json", scenes)
        print("| format | precision | captions | answers | without partner | box, px | score |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for kind in CAPTION_FORMATS:
            for precision in CAPTION_PRECISIONS:
                output = Path(temporary) / precision / ("a.onnx" if kind == "onnx" else "a")
                export_detector(detector, output, Choice(kind, precision))
                exported, found = open_exported(output), []
                for image_id in scenes.image_ids:
                    asked = [*(caption.text for caption in captions[image_id]), [*detector.categories.names]]
                    picture = scenes.records.of_id(image_id).path
                    tolerance = TOLERANCES[precision]
                    found.append(compare(detector, exported, [picture], tolerance, USUAL_LIMIT, captions=asked))
                many, answers, unpaired = (sum(getattr(each, key) for each in found)
                                           for key in ("captions", "detections", "unpaired"))  # fmt: skip
                box, score = (max(getattr(each, key) for each in found) for key in ("box_error", "score_error"))
                print(
                    f"| {kind} | {precision} | {many} | {answers} | {unpaired} | {box:.3f} | {score:.5f} |", flush=True
                )


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["shapes_captions"], int(*sys.argv[2:3] or [100]))
