"""Files of a run folder beside checkpoints and history: settings, data report, log (docs/run-folder.md)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detr_mini.config.run_folder import write_text
from detr_mini.errors import UserError
from detr_mini.formats.load_report import LoadReport

log = logging.getLogger("detr_mini")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """UserError in place of an OSError while `path` is written: what went wrong, and how to continue the run."""
    try:
        yield
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except OSError as error:
        saved = (path.parent / "last.ckpt").is_file()
        how = f"continue with resume={path.parent} (earlier files there are complete)" if saved else "start it again"
        raise UserError(
            f"cannot write {path} ({error.strerror or error}); free some space or check its permissions, then {how}"
        ) from error


def write_given_settings(folder: Path, config: DictConfig) -> None:
    """.start.yaml: the settings as given, from which a run killed before its first checkpoint starts again.

    config.yaml differs: it holds what the data and published weights made of them.
    """
    path = folder / ".start.yaml"
    with writing(path):
        write_text(path, OmegaConf.to_yaml(config, resolve=True))


def write_settings(folder: Path, settings: Mapping[str, Any], comment: str = "") -> None:
    """config.yaml: every setting with its final value, then `comment`."""
    path = folder / "config.yaml"
    with writing(path):
        write_text(path, OmegaConf.to_yaml(OmegaConf.create(dict(settings))) + comment)


def write_data_report(folder: Path, report: LoadReport) -> None:
    """data_report.json. Reasons for chosen settings are kept from an earlier one: a resumed run chooses nothing."""
    path, content = folder / "data_report.json", report.to_dict()
    if path.is_file():
        content["chosen"] = json.loads(path.read_bytes()).get("chosen", {}) | content["chosen"]
    with writing(path):
        write_text(path, json.dumps(content, indent=1))


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append to `path` what is logged inside, and the error that ends it."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}); check the folder's permissions") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [log, logging.getLogger("pytorch_lightning")]
    log.setLevel(logging.INFO)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        log.error("ended by %s: %s", type(error).__name__, error)
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
