"""The bare reading of a file of weights, below every other room: the only `torch.load` of the package.

`vision` reads the weights of a backbone through it, `pretrained.checkpoints` its checkpoints (and says more of what is
wrong with them). Only tensors and plain values are read: a file that holds code is refused, never run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from detr_mini.errors import CheckpointError


def load_weights(path: str | Path) -> Any:
    """The content of a file written by `torch.save`, tensors on the CPU.

    CheckpointError where there is no file, where it cannot be read, is cut off, or holds more than tensors and plain
    values.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}; check the path")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror or error}); check the file's rights") from error
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, KeyError, ...
        raise CheckpointError(
            f"{file} holds no weights: it is empty, damaged, or holds more than tensors and plain values; get it again"
        ) from error
