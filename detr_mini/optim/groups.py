"""Parameter groups: which rule each parameter follows, whether it decays, and its learning rate's factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def is_matrix(name: str, parameter: Tensor, smallest_side: int = 12) -> bool:
    """Whether Muon updates it: a linear or convolution weight whose smaller side is at least `smallest_side`.

    AdamW updates embeddings, which are tables and not linear maps, and class heads with fewer categories than that.
    Embeddings are recognised by name, so the learned positions of a text encoder (`positions.table`) are a matrix here.
    """
    if parameter.ndim < 2 or "embedding" in name or "query_embed" in name:
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= smallest_side


def parameter_groups(
    model: nn.Module,
    *,
    matrices: bool = True,
    backbone_scale: float = 1.0,
    embedding_scale: float = 1.0,
    text_scale: float = 1.0,
    weight_decay: float = 1e-4,
) -> list[dict[str, Any]]:
    """Groups for `Muon` (`matrices`) or for AdamW. Biases, gains and `nn.Embedding` tables are not decayed. Parameters
    with two axes or more are: weights, learned positions, biases by distance, and the temperatures of `cosine`.

    `resume=` needs the groups that a run began with, so runs of earlier versions depend on these rules.

    The learning rate of the parameters under `backbone.`, at any depth, is multiplied by `backbone_scale`, that of a
    pretrained text encoder's by `text_scale`, that of other tables by `embedding_scale`.
    """
    groups: dict[tuple[str, bool, float], list[Tensor]] = {}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rule = "matrix" if matrices and is_matrix(name, parameter) else "adamw"
        decayed = parameter.ndim >= 2 and id(parameter) not in tables and not name.endswith("gain")
        scale = embedding_scale if id(parameter) in tables else 1.0
        for part, its_scale in ((".backbone.", backbone_scale), (".text.pretrained.", text_scale)):
            scale = its_scale if part in f".{name}" else scale
        groups.setdefault((rule, decayed, scale), []).append(parameter)
    return [
        {
            "params": parameters,
            "rule": rule,
            "weight_decay": weight_decay if decayed else 0.0,
            "lr_scale": scale,
        }
        for (rule, decayed, scale), parameters in groups.items()
    ]


def adamw(
    model: nn.Module,
    *,
    lr: float = 1e-4,
    betas: Sequence[float] = (0.9, 0.999),
    weight_decay: float = 1e-4,
    backbone_scale: float = 0.1,
    text_scale: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), the backbone's learning rate times `backbone_scale` (Carion et al. 2020)."""
    groups = parameter_groups(
        model, matrices=False, backbone_scale=backbone_scale, text_scale=text_scale, weight_decay=weight_decay
    )
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), foreach=True)
