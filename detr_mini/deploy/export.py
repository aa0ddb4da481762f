"""A detector as a file that runs without this package, written only if it finds what the detector finds."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from detr_mini import __version__
from detr_mini.deploy import graphs
from detr_mini.deploy.agreement import TOLERANCES, Agreement, compare, made_pictures
from detr_mini.deploy.description import Description
from detr_mini.deploy.detector import inputs_of, open_exported
from detr_mini.deploy.network import check_exportable
from detr_mini.deploy.onnx_file import write_onnx
from detr_mini.deploy.openvino_folder import MODEL, write_openvino
from detr_mini.deploy.packages import package
from detr_mini.deploy.quantise import FLOAT_FIRST, quantise
from detr_mini.deploy.torch_file import write_torch
from detr_mini.errors import UserError
from detr_mini.inference.detector import Detector
from detr_mini.inference.pixels import ImageLike, as_tensor
from detr_mini.models.build import parameter_count

FORMATS = ("onnx", "openvino", "torch")
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino"), "torch": ()}
"""Packages that write and check each format."""


class Choice(NamedTuple):
    """How to export."""

    format: str
    precision: str = "fp32"
    input: str = "pixels"
    limit: int = 100


def export_detector(
    detector: Detector, output: Path, choice: Choice, recipe: str | None = None, pictures: Sequence[ImageLike] = (),
    sources: Sequence[Mapping[str, Any]] = (),
) -> Agreement:  # fmt: skip
    """Write `detector` to `output`: a file for onnx and torch, a folder for openvino. Returns how well the two agree.

    The file is written under another name, compared with `detector` on made pictures and on `pictures`, and renamed;
    int8 is calibrated on `pictures`, too. `sources`: the datasets that the weights have learned from. UserError, with
    nothing left behind, where they do not agree, where the model cannot be exported, and where `output` is something
    that export did not write.
    """
    for name in NEEDED[choice.format]:
        package(name)
    check_exportable(detector.model)
    _check_place(output, choice.format)
    description = described(detector, choice, recipe, sources)
    with _temporary(output) as folder:
        tried = [*made_pictures(), *pictures]
        for attempt, file in enumerate(_in_precision(detector, description, folder, choice.format, pictures)):
            written = file
            if choice.format == "openvino":
                written = folder / f"openvino_{attempt}"
                written.mkdir()
                write_openvino(file, description, written)
            agreement = compare(detector, open_exported(written), tried, TOLERANCES[choice.precision], choice.limit)
            if agreement.holds:
                break
        else:
            raise UserError(
                f"the exported file does not find what the checkpoint finds: {agreement}; {output} was not written. "
                "Try another format or precision, and report this with the model's settings"
            )
        _put(written, output)
    return agreement


def described(
    detector: Detector, choice: Choice, recipe: str | None = None, sources: Sequence[Mapping[str, Any]] = ()
) -> Description:
    """What the file of `detector` says of itself."""
    return Description(
        detector.categories, detector.operating_point, detector.image, choice.input, choice.precision, choice.limit,
        graphs.OPSET, recipe, parameter_count(detector.model), __version__, sources, detector.box_sizes,
    )  # fmt: skip


def _in_precision(
    detector: Detector, description: Description, folder: Path, kind: str, pictures: Sequence[ImageLike]
) -> Iterator[Path]:
    """A file in `folder`, to be compared: .pt2, or .onnx in its precision; int8 with ever more layers in floating
    point."""
    if kind == "torch":
        write_torch(detector.model, description, folder / "detector.pt2")
        yield folder / "detector.pt2"
        return
    onnx_file = folder / "detector.onnx"
    write_onnx(detector.model, description, onnx_file)
    if description.precision != "int8":
        yield onnx_file
        return
    for float_first in FLOAT_FIRST:
        quantised = onnx_file.with_name(f"int8_{float_first}.onnx")
        quantise(onnx_file, quantised, (inputs_of([as_tensor(each)], description) for each in pictures), float_first)
        yield quantised


def _check_place(output: Path, kind: str) -> None:
    """UserError where `output` may not be replaced."""
    if kind != "openvino" and output.is_dir():
        ending = {"onnx": ".onnx", "torch": ".pt2"}[kind]
        raise UserError(f"the output {output} is a folder; choose a file that ends in {ending}")
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
