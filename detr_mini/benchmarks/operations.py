"""How many operations a step consists of. On a GPU a small model's step costs a few microseconds for each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FREE = ("empty", "new_empty", "detach", "alias", "_unsafe_view", "_reshape_alias", "lift_fresh", "set_")
"""Operations, beside views, that compute nothing."""


class OperationCounter(TorchDispatchMode):
    """Inside it, the operations of torch that compute something are counted, those of a backward pass too.

    An operation on a list of tensors (`_foreach_add_`) counts once. `bytes`: what all of them read and write, each by
    itself, as if no operation were fused with another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.bytes = 0

    @property
    def total(self) -> int:
        """Operations so far."""
        return self.counts.total()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not (func.is_view or name.startswith(FREE)):
            self.counts[name] += 1
            self.bytes += sum(_bytes(t) for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor))
        return result


def _bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's values; those of an expanded one are read once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
