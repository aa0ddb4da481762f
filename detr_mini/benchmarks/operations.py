"""How many operations a step consists of. On a GPU a small model's step costs a few microseconds for each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

FREE = ("empty", "new_empty", "detach", "alias", "_unsafe_view", "_reshape_alias", "lift_fresh", "set_")
"""Operations, beside views, that compute nothing."""


class OperationCounter(TorchDispatchMode):
    """Inside it, the operations of torch that compute something are counted, those of a backward pass too.

    An operation on a list of tensors (`_foreach_add_`) counts once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Operations so far."""
        return self.counts.total()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if not (func.is_view or name.startswith(FREE)):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))
