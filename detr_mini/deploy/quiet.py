"""Quiet for torch's exporter."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

CHECKS = "TRANSFORMERS_DISABLE_TORCH_CHECK"


@contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks of torch's exporter, which are about its own parts.

    Without the checks that transformers makes while it computes, too: ONNX has no operator for them.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    checks = os.environ.get(CHECKS)
    os.environ[CHECKS] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            os.environ.pop(CHECKS)
            os.environ |= {} if checks is None else {CHECKS: checks}
