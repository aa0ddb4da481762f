"""A detector as a file that runs without torch, written only if it finds what the detector finds."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from detr_mini import __version__
from detr_mini.deploy import graphs
from detr_mini.deploy.agreement import TOLERANCES, Agreement, compare, made_pictures
from detr_mini.deploy.description import Description
from detr_mini.deploy.detector import open_exported
from detr_mini.deploy.network import check_exportable
from detr_mini.deploy.onnx_file import write_onnx
from detr_mini.deploy.openvino_folder import MODEL, write_openvino
from detr_mini.deploy.packages import package
from detr_mini.errors import UserError
from detr_mini.inference.detector import Detector
from detr_mini.inference.pixels import ImageLike

FORMATS = ("onnx", "openvino")
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
"""Packages that write and check each format."""


class Choice(NamedTuple):
    """How to export."""

    format: str
    precision: str = "fp32"
    input: str = "pixels"
    limit: int = 100


def export_detector(
    detector: Detector, output: Path, choice: Choice, recipe: str | None = None, pictures: Sequence[ImageLike] = ()
) -> Agreement:
    """Write `detector` to `output`: a file for onnx, a folder for openvino. Returns how well the two agree.

    The file is written under another name, compared with `detector` on made pictures and on `pictures`, and renamed.
    UserError, with nothing left behind, where they do not agree, where the model cannot be exported, and where
    `output` is something that export did not write.
    """
    for name in NEEDED[choice.format]:
        package(name)
    check_exportable(detector.model)
    _check_place(output, choice.format)
    description = Description(
        detector.categories, detector.operating_point, detector.image, choice.input, choice.precision, choice.limit,
        graphs.OPSET, recipe, sum(parameter.numel() for parameter in detector.model.parameters()), __version__,
    )  # fmt: skip
    with _temporary(output) as folder:
        written = folder / "detector.onnx"
        write_onnx(detector.model, description, written)
        if choice.format == "openvino":
            onnx_file, written = written, folder / "openvino"
            written.mkdir()
            write_openvino(onnx_file, description, written)
        tolerance = TOLERANCES[choice.precision]
        tried = [*made_pictures(), *pictures]
        agreement = compare(detector, open_exported(written), tried, tolerance, choice.limit)
        if not agreement.holds:
            raise UserError(
                f"the exported file does not find what the checkpoint finds: {agreement}; {output} was not written. "
                "Try another format or precision, and report this with the model's settings"
            )
        _put(written, output)
    return agreement


def _check_place(output: Path, kind: str) -> None:
    """UserError where `output` may not be replaced."""
    if kind == "onnx" and output.is_dir():
        raise UserError(f"the output {output} is a folder; choose a file that ends in .onnx")
    if kind == "openvino" and output.exists():
        files = {path.name for path in output.iterdir()} if output.is_dir() else None
        if files is None or files - {MODEL, "model.bin"}:
            what = "is a file" if files is None else "holds other files than those of an export"
            raise UserError(f"the output {output} {what}; choose a new folder")


@contextmanager
def _temporary(output: Path) -> Iterator[Path]:
    """A folder beside `output`, which is removed at the end with all that is still in it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".exporting-", dir=output.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(written: Path, output: Path) -> None:
    """Move what was written to its place, over an earlier export."""
    if written.is_dir():
        output.mkdir(exist_ok=True)
        for path in sorted(written.iterdir()):
            os.replace(path, output / path.name)
    else:
        os.replace(written, output)
