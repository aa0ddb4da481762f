"""Names of the Hugging Face hub: a detector's files are downloaded because a command names it, and kept."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from detr_mini.errors import CheckpointError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PATHS = (".ckpt", ".pth", ".pt", ".bin", ".safetensors", ".onnx", ".xml")
"""Ends of names that mean a file."""
CONFIG, IMAGES = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In the order in which they are looked for."""


def is_name(text: str) -> bool:
    """Whether `text` can be a name of the hub: owner/model, where nothing bears that name or lies below "owner"."""
    path = Path(text).expanduser()
    return bool(NAME.fullmatch(text)) and path.suffix not in PATHS and not path.exists() and not path.parent.exists()


def fetch(name: str) -> tuple[Path, str]:
    """The folder with the files of the hub's detector `name`, and its revision; downloaded where they are not kept.

    CheckpointError, with the command that fetches it elsewhere, where neither the hub nor a kept copy has it.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(_absent(name, "huggingface_hub is not installed")) from error
    try:
        config = Path(hf_hub_download(name, CONFIG))
        for file in WEIGHTS:
            try:
                hf_hub_download(name, file, revision=config.parent.name)
                break
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
        else:
            raise CheckpointError(f"{name} of the hub holds neither {' nor '.join(WEIGHTS)}; give another one")
        with suppress(EntryNotFoundError):  # then the kind's own sizes
            hf_hub_download(name, IMAGES, revision=config.parent.name)
    except CheckpointError:
        raise
    except Exception as error:  # no network, no such name, a name that needs a key
        raise CheckpointError(_absent(name, (str(error).strip() or type(error).__name__).splitlines()[0])) from error
    return config.parent, config.parent.name


def _absent(name: str, reason: str) -> str:
    local = name.replace("/", "--")
    return (
        f"there is no checkpoint {name} here, neither as a file or folder nor in the package, and the hub does not "
        f"give it ({reason.rstrip('.')[:200]}); check the name, or fetch it where there is a network with "
        f"'hf download {name} --local-dir {local}' and give the folder {local}"
    )
