"""The forms of a detector that `benchmark latency` times: torch, and files for ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from detr_mini.deploy.description import Description
from detr_mini.deploy.detector import ExportedDetector, inputs_of
from detr_mini.deploy.export import NEEDED, Choice, described
from detr_mini.deploy.onnx_file import trace, write_onnx
from detr_mini.deploy.openvino_folder import MODEL, write_openvino
from detr_mini.deploy.packages import package
from detr_mini.deploy.quantise import FLOAT_FIRST, quantise
from detr_mini.deploy.runtimes import Runtime, open_onnx, open_openvino, openvino_has_bfloat16
from detr_mini.errors import UserError
from detr_mini.inference.batches import detect_batches
from detr_mini.inference.detector import Detector
from detr_mini.inference.pixels import as_tensor
from detr_mini.inference.requests import USUAL_LIMIT
from detr_mini.progress import track

FORMS = ("torch", "torch bf16", "onnx", "onnx int8", "openvino", "openvino bf16", "openvino int8")
WARM_UP = 2
"""Calls before the first that is timed; with the last of them OpenVINO compiles for the picture's size."""
Picture = UInt8[np.ndarray, "h w 3"]
Call = Callable[[], object]


class Form(NamedTuple):
    """One way to compute a detector, as two functions of a number of pictures."""

    network: Callable[[int], Call]
    """The network alone, on pictures that are resized already, with the selection of the best."""
    whole: Callable[[int], Call]
    """`detect`: from pixels to boxes in the picture."""


def forms_of(
    detector: Detector, wanted: Sequence[str], picture: Picture, folder: Path
) -> tuple[dict[str, Form], list[str]]:
    """Each form that this machine can compute, and a sentence for each that it cannot."""
    forms: dict[str, Form] = {}
    missing: list[str] = []
    files = _Files(detector, picture, folder)
    for name in track(wanted, "Preparing the forms"):
        kind, _, precision = name.partition(" ")
        if kind == "torch":
            forms[name] = _torch_form(detector, picture, bfloat16=precision == "bf16")
            continue
        if name == "openvino bf16":
            with suppress(UserError):  # where OpenVINO is missing, the next line says so
                if not openvino_has_bfloat16():
                    missing.append("openvino bf16 is left out: this processor has no bfloat16")
                    continue
        try:
            for needed in NEEDED[kind]:
                package(needed)
            forms[name] = files.form(kind, precision)
        except UserError as error:
            missing.append(f"{name} is left out: {error}")
    return forms, missing


def form_of_file(detector: ExportedDetector, picture: Picture) -> Form:
    """An exported file as it is. Where it prepares images itself, its network cannot be timed apart from that."""

    def network(count: int) -> Call:
        inputs = inputs_of([as_tensor(picture)] * count, detector.description)
        return lambda: detector.runtime.run(inputs)

    return Form(network, lambda count: lambda: detector.detect([picture] * count, batch_size=count))


def _torch_form(detector: Detector, picture: Picture, *, bfloat16: bool) -> Form:
    def network(count: int) -> Call:
        batch = next(detector.batches([picture] * count, count)).to(detector.device)

        def call() -> object:
            with autocast():
                return detect_batches(
                    detector.model, [batch], detector.categories, detector.device, USUAL_LIMIT, progress=False
                )

        return call

    def autocast() -> torch.autocast:
        return torch.autocast(detector.device.type, torch.bfloat16, enabled=bfloat16)

    def whole(count: int) -> Call:
        def call() -> object:
            with autocast():
                return detector.detect([picture] * count, batch_size=count)

        return call

    return Form(network, whole)


class _Files:
    """Exported files of one detector, each written when it is first asked for; the network is traced once."""

    def __init__(self, detector: Detector, picture: Picture, folder: Path) -> None:
        self.detector, self.picture, self.folder = detector, picture, folder
        self.traced: Any = None

    def form(self, kind: str, precision: str) -> Form:
        """UserError where the model cannot be exported."""
        exported = {each: self._opened(kind, precision, each) for each in ("tensor", "pixels")}

        def network(count: int) -> Call:
            runtime, description = exported["tensor"]
            inputs = inputs_of([as_tensor(self.picture)] * count, description)
            return lambda: runtime.run(inputs)

        def whole(count: int) -> Call:
            detector = ExportedDetector(*exported["pixels"], f"{kind} {precision}")
            return lambda: detector.detect([self.picture] * count, batch_size=count)

        return Form(network, whole)

    def _opened(self, kind: str, precision: str, takes: str) -> tuple[Runtime, Description]:
        file, description = self._onnx_file(precision == "int8", takes)
        if kind == "onnx":
            return open_onnx(file), description
        folder = file.with_suffix("")
        if not folder.exists():
            folder.mkdir()
            write_openvino(file, description, folder)
        return open_openvino(folder / MODEL, bfloat16=precision == "bf16", alike=WARM_UP), description

    def _onnx_file(self, in_int8: bool, takes: str) -> tuple[Path, Description]:
        detector, file = self.detector, self.folder / f"{takes}.onnx"
        description = described(detector, Choice("onnx", input=takes, limit=USUAL_LIMIT))
        if not file.exists():
            if self.traced is None:
                self.traced = trace(detector.model, description)
            write_onnx(detector.model, description, file, self.traced)
        if not in_int8:
            return file, description
        quantised = self.folder / f"{takes}_int8.onnx"
        if not quantised.exists():
            quantise(file, quantised, [inputs_of([as_tensor(self.picture)], description)], FLOAT_FIRST[0])
        return quantised, description
