"""What training and evaluation may ask of a data module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from detr_mini.data.dataset import BatchLoader
from detr_mini.data.samplers import TrainBatches
from detr_mini.formats.load_report import Chosen, LoadReport
from detr_mini.formats.split import CocoSet, ImageRecords
from detr_mini.structures import Categories
from detr_mini.text.tokenizers import AnyTokenizer


@runtime_checkable
class Data(Protocol):
    """Images, objects and captions, read split by split; also a `LightningDataModule`."""

    report: LoadReport
    """What was read, chosen and skipped."""
    root: Path
    image: dict[str, Any]
    """size, shorter_side, mean and std: how an image becomes the model's input. It stands in checkpoints."""
    batch_size: int
    stride: int
    categories: Categories
    """After `setup`."""
    sets: dict[str, CocoSet]
    """The splits that `setup` has read."""
    train_batches: TrainBatches | None
    tokenizer: AnyTokenizer | None
    """None for data without captions."""
    attributes: tuple[str, ...]
    """Names of what captions say of an object besides its category; empty for data without captions."""

    def setup(self, stage: str | None = None) -> None:
        """Read what `stage` needs ("fit", "validate", "test"; None: everything). DataError if it cannot be read."""

    @property
    def tiles(self) -> int | str | None:
        """The side of the windows that images are cut into; after `setup` a number or None."""

    @property
    def hold_out(self) -> float | None:
        """The share of train that becomes val where there is none."""

    @property
    def splits(self) -> Mapping[str, Any]:
        """Where each of train, val and test lies, or None for a split that does not exist."""

    @property
    def train_images(self) -> int:
        """After `setup("fit")`: images of train before tiles are cut and others join them."""

    @property
    def train_set(self) -> CocoSet:
        """The training split, after `setup("fit")`."""

    @property
    def boxes_cropped_away(self) -> int:
        """Boxes that augmentation has moved out of their image so far."""

    def evaluate_as(self, categories: Categories, tokenizer: AnyTokenizer | None = None) -> None:
        """Before `setup`: read labels and captions as a trained model does, not as the training split has them."""

    def take(self, categories: Categories, train: CocoSet) -> None:
        """After `setup`: more categories, behind those of the data, and a training set with boxes of them."""

    def records_of(
        self, paths: Sequence[Path], sizes: Sequence[tuple[int, int]], most: int | None = None
    ) -> ImageRecords:
        """After `setup`: more image files of these sizes (height, width), cut into windows as those of train are.

        Of more windows than `most`, as many stay.
        """

    def settle(self, chosen: Mapping[str, Chosen]) -> None:
        """Set what was "auto" (`size`, `batch_size`, `strong_until`)."""

    def divide(self, place: int, processes: int) -> None:
        """After `setup`: share this machine's memory with the other processes of the training."""

    def limit_tokens(self, most: int) -> None:
        """Keep captions to `most` tokens. DataError if a caption in a file is longer."""

    def follow(self, progress: Callable[[], float], scale: Callable[[int], float]) -> None:
        """Before the first batch of a training.

        `progress()` is the share of the training that was done when the current epoch began. `scale(batches)` is the
        factor on the sides of the images of a batch, given how many batches come before it in all epochs.
        """

    def resume_at(self, epoch: int, start_batch: int) -> None:
        """Start the next training inside `epoch`, after its first `start_batch` batches."""

    def train_dataloader(self) -> BatchLoader:
        """Shuffled, augmented batches: this process's share."""

    def evaluation_loader(
        self, name: str, image_ids: Collection[int] | None = None, *, shared: bool = True
    ) -> BatchLoader:
        """A split's images in order (or those of `image_ids`): this process's share, or all if not `shared`."""
