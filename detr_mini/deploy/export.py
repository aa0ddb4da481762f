"""A detector as a file that runs without this package, written only if it finds what the detector finds."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from detr_mini import __version__
from detr_mini.deploy import graphs
from detr_mini.deploy.agreement import TOLERANCES, Agreement, compare, made_captions, made_pictures
from detr_mini.deploy.caption_files import (
    TEXT_MODEL,
    TOKENIZER,
    caption_file,
    checksum,
    is_caption_file,
    weights_checksum,
)
from detr_mini.deploy.description import KEY, Description, TakesCaptions
from detr_mini.deploy.detector import ExportedDetector, inputs_of, open_exported
from detr_mini.deploy.onnx_file import write_caption_onnx, write_onnx
from detr_mini.deploy.openvino_folder import MODEL, write_ir, write_openvino
from detr_mini.deploy.packages import package
from detr_mini.deploy.quantise import FLOAT_FIRST, quantise
from detr_mini.deploy.runtimes import OPENED, open_onnx
from detr_mini.deploy.torch_file import write_torch
from detr_mini.errors import CheckpointError, UserError
from detr_mini.inference.detector import Detector
from detr_mini.inference.pixels import ImageLike, as_tensor
from detr_mini.inference.requests import USUAL_LIMIT
from detr_mini.models.build import parameter_count
from detr_mini.models.grounded import GroundedDETR
from detr_mini.models.protocol import DetectionModel
from detr_mini.text.tokenizer_json import to_json

CAPTION_FORMATS, CAPTION_PRECISIONS = ("onnx", "openvino"), ("fp32", "fp16")
"""Of a detector with captions."""
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
) -> list[Agreement]:  # fmt: skip
    """Write `detector` to `output`: a file for onnx and torch, a folder for openvino. Returns how well the two agree,
    and for a detector with captions, whose export has the files of `caption_files` as well, how well their answers do.

    The file is written under another name, compared with `detector` on made pictures and on `pictures`, and renamed;
    int8 is calibrated on `pictures`, too. `sources`: the datasets that the weights have learned from. UserError, with
    nothing left behind, where they do not agree, where the model cannot be exported, and where `output` is something
    that export did not write.
    """
    for name in NEEDED[choice.format]:
        package(name)
    _check_place(output, choice.format, takes_captions(detector))
    vocabulary = _vocabulary(detector, output, choice) if takes_captions(detector) else None
    description = described(detector, choice, recipe, sources)
    if vocabulary is not None:
        description = replace(description, captions=_about_captions(detector, vocabulary))
    with _temporary(output) as folder:
        tried = [*made_pictures(), *pictures]
        for attempt, file in enumerate(_in_precision(detector, description, folder, choice.format, pictures)):
            written = file
            if choice.format == "openvino":
                written = folder / f"openvino_{attempt}"
                written.mkdir()
                write_openvino(file, description, written)
            if vocabulary is not None:
                _write_captions(detector.model, description, vocabulary, written)
            agreements = _compared(detector, open_exported(written), tried, choice)
            if all(agreement.holds for agreement in agreements):
                break
        else:
            worst = next(agreement for agreement in agreements if not agreement.holds)
            raise UserError(
                f"the exported file does not find what the checkpoint finds: {worst}; {output} was not written. "
                "Try another format or precision, and report this with the model's settings"
            )
        for path, place in placed(written, output, vocabulary is not None):
            place.parent.mkdir(exist_ok=True)
            os.replace(path, place)
    return agreements


def takes_captions(detector: Detector) -> bool:
    """Whether an export has a second file, for captions, and a tokeniser."""
    return isinstance(detector.model, GroundedDETR) and detector.tokenizer is not None


def placed(written: Path, output: Path, captions: bool) -> list[tuple[Path, Path]]:
    """Each file of the export `written`, and its place in the export `output`; the first file last."""
    if written.is_dir():
        files = sorted(written.iterdir(), key=lambda path: (path.name == MODEL, path.name))
        return [(path, output / path.name) for path in files]
    more = [(caption_file(written), caption_file(output)), (written.with_name(TOKENIZER), output.with_name(TOKENIZER))]
    return [*(more if captions else ()), (written, output)]


def _compared(
    detector: Detector, exported: ExportedDetector, pictures: Sequence[ImageLike], choice: Choice
) -> list[Agreement]:
    """How well detections agree, and the answers to captions where there are any."""
    tolerance = TOLERANCES[choice.precision]
    found = [compare(detector, exported, pictures, tolerance, choice.limit)]
    if exported.reader is not None:
        reader = exported.reader
        captions = made_captions(detector.categories.names, reader.tokenizer, reader.max_tokens)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown words
            found.append(compare(detector, exported, pictures, tolerance, USUAL_LIMIT, captions=captions))
    return found


def _vocabulary(detector: Detector, output: Path, choice: Choice) -> bytes:
    """The content of tokenizer.json. UserError for a choice that captions exclude, and where the file is taken."""
    assert detector.tokenizer is not None
    for key, chosen, possible in (("format", choice.format, CAPTION_FORMATS),
                                  ("precision", choice.precision, CAPTION_PRECISIONS)):  # fmt: skip
        if chosen not in possible:
            raise UserError(f"{key}={chosen} is not there for a detector with captions (model=mini_grounded); "
                            f"choose {key}={' or '.join(possible)}")  # fmt: skip
    content, place, second = to_json(detector.tokenizer).encode(), output.with_name(TOKENIZER), caption_file(output)
    if choice.format == "onnx" and place.exists() and place.read_bytes() != content:
        others = [path for path in output.parent.glob("*.onnx") if is_caption_file(path) and path != second]
        if others or not second.exists():
            raise UserError(f"{place} is there already and belongs to something else; write {output.name} into a "
                            "folder of its own")  # fmt: skip
    return content


def _about_captions(detector: Detector, vocabulary: bytes) -> TakesCaptions:
    model = detector.model
    return TakesCaptions(model.max_tokens, detector.threshold, checksum(vocabulary), weights_checksum(model))


def _write_captions(model: DetectionModel, description: Description, vocabulary: bytes, written: Path) -> None:
    """Write the second file and tokenizer.json beside the first file, or into the folder `written`."""
    assert isinstance(model, GroundedDETR) and description.captions is not None
    file = written / MODEL if written.is_dir() else written
    file.with_name(TOKENIZER).write_bytes(vocabulary)
    if not written.is_dir():
        write_caption_onnx(model, description, caption_file(file))
        return
    onnx_file = written.with_suffix(".text.onnx")
    write_caption_onnx(model, description, onnx_file)
    properties = description.captions.properties(description.version)
    write_ir(onnx_file, properties, caption_file(file), description.precision)


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


def _check_place(output: Path, kind: str, captions: bool) -> None:
    """UserError where `output` may not be replaced."""
    if kind != "openvino" and output.is_dir():
        ending = {"onnx": ".onnx", "torch": ".pt2"}[kind]
        raise UserError(f"the output {output} is a folder; choose a file that ends in {ending}")
    if kind == "openvino" and output.exists():
        files = {path.name for path in output.iterdir()} if output.is_dir() else None
        if files is None or files - {MODEL, "model.bin", TEXT_MODEL, "text.bin", TOKENIZER}:
            what = "is a file" if files is None else "holds other files than those of an export"
            raise UserError(f"the output {output} {what}; choose a new folder")
    first = output / MODEL if kind == "openvino" else output
    for file in (first, caption_file(first)) if captions else (first,):
        if file.exists() and not _is_export(file):
            raise UserError(f"{file} is there already, and 'detr-mini export' did not write it; choose another output, "
                            "or remove it")  # fmt: skip


def _is_export(file: Path) -> bool:
    """Whether a file says of itself that `export` wrote it."""
    try:
        return KEY in OPENED.get(file.suffix, open_onnx)(file).properties
    except CheckpointError:
        return False


@contextmanager
def _temporary(output: Path) -> Iterator[Path]:
    """A folder beside `output`, which is removed at the end with all that is still in it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".exporting-", dir=output.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
