"""The programs that compute exported files: ONNX Runtime, OpenVINO and torch, each as one function of arrays."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from detr_mini.deploy import openvino_folder, plain_program
from detr_mini.deploy.packages import package
from detr_mini.deploy.quiet import quiet
from detr_mini.errors import CheckpointError, first_line
from detr_mini.safe_files import read_bytes

LARGEST_FILE = 1 << 31
"""Bytes of an ONNX file, which Protocol Buffers cannot exceed."""
QUIET = 3
"""ONNX Runtime's level of messages: errors only."""

ALIKE = 50
"""Calls with inputs of the same shapes after which OpenVINO compiles for these shapes."""
DETECTIONS = ("boxes", "scores", "labels")
"""What a file gives of pictures: (b, n, 4), (b, n) and (b, n)."""
Run = Callable[[Mapping[str, np.ndarray], Sequence[str]], list[np.ndarray]]
"""Arrays by the names of the inputs, and names of outputs (at most those of a file) to these outputs."""


class Runtime(NamedTuple):
    """An exported file that a runtime has read."""

    properties: dict[str, str]
    """The file's metadata."""
    compute: Run
    name: str

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = DETECTIONS) -> list[np.ndarray]:
        """`outputs` for the arrays under the names of the inputs."""
        return self.compute(inputs, outputs)


def open_onnx(file: Path) -> Runtime:
    """ONNX Runtime with as many threads as torch. CheckpointError where it cannot read `file`."""
    ort = package("onnxruntime")

    def opened() -> tuple[dict[str, str], Run]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # threads that wait for work sleep: spinning takes the cores from everything else on the machine
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = QUIET
        try:
            # from memory, so that a stranger's file cannot name other files as the place of its weights
            session = ort.InferenceSession(read_bytes(file, LARGEST_FILE), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has errors of its own for every kind of broken file
            raise _unreadable(file, "ONNX Runtime", error) from error
        properties = dict(session.get_modelmeta().custom_metadata_map)
        return properties, lambda inputs, outputs: session.run([*outputs], dict(inputs))

    program = OfEachProcess(file, opened)
    return Runtime(program.properties, program, "ONNX Runtime")


def open_openvino(file: Path, bfloat16: bool = False, alike: int = ALIKE) -> Runtime:
    """OpenVINO with as many threads as torch, in float32. CheckpointError where it cannot read `file` (.xml).

    `bfloat16`: in it, on a processor that has it. `alike`: see `Compiled`.
    """

    def opened() -> tuple[dict[str, str], Run]:
        core = openvino_folder.core()
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            model = core.read_model(os.fspath(file))
            properties = openvino_folder.properties(model)
            compiled = Compiled(model, lambda each: core.compile_model(each, "CPU", settings), alike)
        except Exception as error:  # as above
            raise _unreadable(file, "OpenVINO", error) from error

        def run(inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
            found: Any = compiled(dict(inputs))
            return [found[name] for name in outputs]

        return properties, run

    program = OfEachProcess(file, opened)
    return Runtime(program.properties, program, "OpenVINO")


class OfEachProcess:
    """A program that reads its file again in a forked child.

    A child has none of its parent's threads, and a runtime that was read before the fork waits for them forever, when
    it computes and when it ends. The child therefore keeps its parent's, unused.
    """

    def __init__(self, file: Path, opened: Callable[[], tuple[dict[str, str], Run]]) -> None:
        """`opened` reads `file`: its metadata and its program."""
        self.file, self.opened = file, opened
        self.properties, self.run = opened()
        self.process = os.getpid()
        self.of_parents: list[Run] = []

    def __call__(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """See `Run`. CheckpointError in a child where the file has gone or changed since."""
        if self.process != os.getpid():
            properties, run = self.opened()
            if properties != self.properties:
                raise CheckpointError(f"{self.file} has changed since it was loaded; load it again in this process")
            self.of_parents.append(self.run)
            self.run, self.process = run, os.getpid()
        return self.run(inputs, outputs)


class Compiled:
    """A model for inputs of any shape, compiled again for shapes that come `alike` times in a row.

    OpenVINO takes a quarter less time where it knows all sizes beforehand (a video, a camera, pictures of one size).
    Compiling takes about a second. Where it fails, the model for any shape goes on. Threads compute one after another,
    because a compiled model has one place for its inputs.
    """

    def __init__(self, model: Any, compile_model: Callable[[Any], Any], alike: int) -> None:
        """`model` of `openvino.Core.read_model`."""
        self.model, self.compile_model, self.alike = model, compile_model, alike
        self.for_any = compile_model(model)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.count = 0
        self.for_shapes: dict[str, tuple[int, ...]] = {}
        self.fixed: Any = None
        self._turn = threading.Lock()

    def __call__(self, inputs: dict[str, np.ndarray]) -> Any:
        """The outputs by name."""
        with self._turn:
            return self._one_call(inputs)

    def _one_call(self, inputs: dict[str, np.ndarray]) -> Any:
        shapes = {name: values.shape for name, values in inputs.items()}
        self.shapes, self.count = shapes, self.count + 1 if shapes == self.shapes else 1
        if self.count == self.alike and shapes != self.for_shapes:
            with suppress(RuntimeError):  # what OpenVINO raises
                fixed = self.model.clone()
                fixed.reshape({name: list(shape) for name, shape in shapes.items()})
                self.fixed, self.for_shapes = self.compile_model(fixed), shapes
        return (self.fixed if shapes == self.for_shapes else self.for_any)(inputs)


def open_torch(file: Path) -> Runtime:
    """A program of `torch.export`, with no more than plain tensors and operators. CheckpointError for any other."""
    try:
        content = read_bytes(file, LARGEST_FILE)
        with quiet():
            text = plain_program.read_properties(content)
            if text is None:  # `Description.read` says so
                return Runtime({}, lambda inputs, outputs: [], "torch")
            properties = json.loads(text)
            program = plain_program.read_program(content)
    except plain_program.Refused as error:
        raise CheckpointError(
            f"{file} is not read, because torch would run what it holds: {error}; get a .pt2 file of 'detr-mini export'"
        ) from error
    except Exception as error:  # as above
        raise _unreadable(file, "torch", error) from error

    def run(inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        with torch.inference_mode():
            found = program(*(torch.from_numpy(values) for values in inputs.values()))
        return [values.numpy() for values in found]

    return Runtime(properties if isinstance(properties, dict) else {}, run, "torch")


OPENED: dict[str, Callable[[Path], Runtime]] = {".onnx": open_onnx, ".pt2": open_torch, ".xml": open_openvino}
"""What opens a file, by its ending."""


def openvino_has_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this machine."""
    return "BF16" in openvino_folder.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _unreadable(file: Path, runtime: str, error: Exception) -> CheckpointError:
    reason = first_line(error)[:200]
    return CheckpointError(f"{runtime} cannot read {file} ({reason}); it may be damaged: export the checkpoint again")
