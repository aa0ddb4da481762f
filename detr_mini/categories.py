"""The categories of a dataset: plain data, so that what only reads annotations needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detr_mini.errors import DataError


@dataclass(frozen=True)
class Categories:
    """The ids and names of the data as they are, and the labels 0..K-1 that the model sees.

    The only place that maps between them. The label of a category is its rank in `ids`, which are sorted:
    the order in which a file lists its categories means nothing.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise DataError(f"{len(self.ids)} category ids but {len(self.names)} names")
        for what, values in (("id", self.ids), ("name", self.names)):
            twice = sorted((value for value, count in Counter(values).items() if count > 1), key=str)
            if twice:
                raise DataError(f"category {what} {twice[0]!r} stands twice in the list of categories; make it unique")
        order = sorted(range(len(self.ids)), key=lambda i: self.ids[i])
        object.__setattr__(self, "ids", tuple(self.ids[i] for i in order))
        object.__setattr__(self, "names", tuple(self.names[i] for i in order))

    def __len__(self) -> int:
        return len(self.ids)

    def label_of(self, category_id: int) -> int:
        """The label (0..K-1) of a category id of the data; KeyError where there is none."""
        return self._labels[category_id]

    @property
    def _labels(self) -> dict[int, int]:
        return {category_id: label for label, category_id in enumerate(self.ids)}

    def labels_of_names(self) -> dict[str, int]:
        """Each name's label."""
        return {name: label for label, name in enumerate(self.names)}

    def records(self) -> list[dict[str, Any]]:
        """COCO's `categories` list."""
        return [{"id": i, "name": n} for i, n in zip(self.ids, self.names, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for a checkpoint or a JSON file."""
        return {"ids": list(self.ids), "names": list(self.names)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Categories:
        """The inverse of `to_dict`."""
        return cls(tuple(int(i) for i in state["ids"]), tuple(str(n) for n in state["names"]))
