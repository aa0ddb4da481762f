"""Exported files beside their checkpoint, on real photographs of many sizes.

    python docs/export_parity.py CHECKPOINT FOLDER [PHOTOGRAPHS] [FORMAT ...]

The checkpoint is exported once per FORMAT (onnx, openvino, torch) in float32, for raw pixels. PHOTOGRAPHS (200) images
are drawn evenly from the folders inside FOLDER. For each folder and format, one line says how many detections above
0.05 have a partner within the tolerance of `detr-mini export`, and how far partners are apart.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import chain, zip_longest
from pathlib import Path

from detr_mini.deploy.agreement import TOLERANCES, Agreement, compare
from detr_mini.deploy.detector import open_exported
from detr_mini.deploy.export import FORMATS, Choice, export_detector
from detr_mini.inference.detector import load
from detr_mini.inference.sources import find_pictures
from detr_mini.seeding import drawing_order

LIMIT = 100
ENDINGS = {"onnx": ".onnx", "openvino": "", "torch": ".pt2"}


def main(checkpoint: str, folder: Path, count: int, formats: list[str]) -> None:
    """Print a table."""
    detector = load(checkpoint)
    chosen = photographs(folder, count)
    print("| photographs | format | detections | without partner | box, px | score |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        for kind in formats:
            output = Path(temporary) / f"a{ENDINGS[kind]}"
            export_detector(detector, output, Choice(kind, limit=LIMIT))
            exported = open_exported(output)
            results = []
            for name, files in chosen.items():
                found = compare(detector, exported, files, TOLERANCES["fp32"], LIMIT, fewest=0)
                results.append(found)
                print(line(f"{name}, {len(files)}", kind, [found]), flush=True)
            print(line(f"all, {sum(map(len, chosen.values()))}", kind, results), flush=True)


def photographs(folder: Path, count: int) -> dict[str, list[Path]]:
    """`count` photographs by the folder inside `folder` that holds them, as evenly as the folders allow."""
    inside = {
        each.name: sorted(
            (found.path for found in find_pictures(str(each))), key=lambda path: drawing_order(0, path.name)
        )
        for each in sorted(folder.iterdir())
        if each.is_dir()
    }
    turns = zip_longest(*([(name, path) for path in paths] for name, paths in inside.items()))
    drawn = [pair for pair in chain.from_iterable(turns) if pair is not None][:count]
    return {name: own for name in inside if (own := [path for of, path in drawn if of == name])}


def line(name: str, kind: str, found: list[Agreement]) -> str:
    """A row of the table."""
    boxes, scores = (max(getattr(each, key) for each in found) for key in ("box_error", "score_error"))
    detections, unpaired = (sum(getattr(each, key) for each in found) for key in ("detections", "unpaired"))
    return f"| {name} | {kind} | {detections} | {unpaired} | {boxes:.3f} | {scores:.5f} |"


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0], Path(given[1]), int(given[2]) if len(given) > 2 else 200, given[3:] or [*FORMATS])
