"""Which images make up which batch: a function of seed, epoch, rank and world size, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Sampler

from detr_mini.errors import DataError
from detr_mini.seeding import ORDER, image_seed

WINDOW = 16
"""Batches whose images are put in order of their shapes together."""
SHAPES_PER_DOUBLING = 4
"""Classes of shapes between one ratio of width to height and twice that; images of one class stay in random order."""


class Key(NamedTuple):
    """What is asked of a set: all that an image's augmentation depends on travels together, to whatever worker."""

    index: int  # type: ignore[assignment]  # a tuple has a method of that name
    """Of an image in its set."""
    epoch: int
    strong: bool = False
    """Whether the epoch has the strong augmentation, too."""
    scale: float = 1.0
    """Of the image's sides, beside those that the model will see in the end."""


class TrainBatches(Sampler[list[Key]]):
    """Batches of one shuffled epoch; each rank takes its stripe of the same permutation.

    Every rank has equally many batches of one size: what does not fill a batch on every rank is left out of the epoch
    (other images each time), since a short last batch weighs its few images more than the others. Only where a rank
    has less than one batch is that one kept. `strong` is asked once an epoch, at its start, whether the epoch's images
    have the strong augmentation. `scale` is asked for each batch, given how many came before it in all epochs.

    `sizes` (height, width) of all images: those of like shape come into one batch where they are near in the shuffled
    order, since a batch is padded to its largest height and width. Which images an epoch has does not depend on it.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        strong: Callable[[], bool] = lambda: False,
        scale: Callable[[int], float] = lambda batches: 1.0,
        sizes: Float[Tensor, "n 2"] | None = None,
    ) -> None:
        check_enough(images, world, "training")
        self._classes = None if sizes is None else shape_classes(sizes)
        self.images, self.batch_size, self.seed, self.rank, self.world = images, batch_size, seed, rank, world
        self.strong, self.scale, self.epoch = strong, scale, 0
        self.resumed = (0, 0)

    @property
    def sampler(self) -> TrainBatches:
        """Itself: Lightning looks for `set_epoch` here."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration."""
        self.epoch = epoch

    def resume_at(self, epoch: int, start_batch: int) -> None:
        """Go on inside `epoch`: its iteration leaves out the first `start_batch` batches; others are whole."""
        self.epoch, self.resumed = epoch, (epoch, start_batch)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return max(1, self.images // self.world // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, strong = self.epoch, self.strong()
        generator = torch.Generator().manual_seed(image_seed(self.seed, epoch, ORDER))
        order = torch.randperm(self.images, generator=generator)
        each = self.images // self.world
        if self._classes is not None:
            order = by_shape(order, self._classes, self.batch_size * self.world, len(self), generator)
        own = order[self.rank : each * self.world : self.world].tolist()
        start = self.resumed[1] if self.resumed[0] == epoch else 0
        for batch in range(start, len(self)):
            scale = self.scale(epoch * len(self) + batch)
            yield [Key(i, epoch, strong, scale) for i in own[batch * self.batch_size : (batch + 1) * self.batch_size]]


def shape_classes(sizes: Float[Tensor, "n 2"]) -> Int[Tensor, " n"] | None:
    """A number for the shape of each image; None where all have the same."""
    classes = (SHAPES_PER_DOUBLING * (sizes[:, 1] / sizes[:, 0]).log2()).round().long()
    return None if bool((classes == classes[0]).all()) else classes


def by_shape(
    order: Int[Tensor, " n"], classes: Int[Tensor, " n"], batch: int, batches: int, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """`order`, whose first `batches` parts of `batch` are the batches, with like shapes together in each WINDOW."""
    whole = batches * batch if len(order) >= batch else 0
    parts = []
    for window in order[:whole].split(WINDOW * batch):
        alike = window[classes[window].argsort(stable=True)].view(-1, batch)
        parts.append(alike[torch.randperm(len(alike), generator=generator)].flatten())
    return torch.cat([*parts, order[whole:]])


class EvaluationBatches(Sampler[list[Key]]):
    """Each of the `indices` once, in order; rank r of w takes every w-th from r on, none is repeated to even it out.

    DataError where a rank would have none: it would wait for the others at another place than they for it.
    """

    def __init__(self, indices: Sequence[int], batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        check_enough(len(indices), world, "evaluation")
        self.own = list(indices[rank::world])
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.own) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.own), self.batch_size):
            yield [Key(index, 0) for index in self.own[start : start + self.batch_size]]


def check_enough(images: int, world: int, what: str) -> None:
    """DataError where some of `world` processes would have no image."""
    if images < world:
        raise DataError(f"{images} {what} images cannot be shared by {world} processes; use fewer processes")
