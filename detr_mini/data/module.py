"""A dataset of any format as a LightningDataModule: from folders to batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from detr_mini.data.augment import Augment
from detr_mini.data.auto_settings import AUTO, check_counts, check_shares, choose_size
from detr_mini.data.dataset import BatchLoader, DetectionDataset, collate_pairs
from detr_mini.data.samplers import EvaluationBatches, TrainBatches
from detr_mini.data.split_reader import SplitReader
from detr_mini.data.tiles import OVERLAP, files_in_windows, refuse_undecodable
from detr_mini.data.workers import bytes_of, choose_workers
from detr_mini.errors import ConfigError, DataError, nearest
from detr_mini.formats.discover import Split
from detr_mini.formats.load_report import Chosen, LoadReport
from detr_mini.formats.path_words import SPLIT_WORDS
from detr_mini.formats.split import CocoSet, ImageRecords
from detr_mini.scenes.shapes import ensure_scenes
from detr_mini.shards.remote import local_folder
from detr_mini.structures import Batch, Categories
from detr_mini.text.tokenizers import AnyTokenizer

NO_VAL = (
    "there is no val: nothing is measured during the training, and the last weights are kept; data.hold_out=0.2 holds "
    "out a share of train for it, 'detr-mini data split' makes one for good"
)
OF_TRAINING = ("augment", "augment_strong", "strong_until")
"""Settings that say nothing of what is evaluated."""
STAGES = {"val": "validate", "test": "test"}
"""The stage that `setup` gets where a split is measured."""
_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}

OVERSAMPLING = 2
"""Times the model's size that training images have at most before augmentation: enough for a window of half of one."""
USUAL_BATCH = 8
"""Images a batch where nothing says how many."""


class DetectionData(pl.LightningDataModule):
    """Train, val and test splits of a dataset.

    `format`: a key of `discover.FORMATS`, or "auto" to detect it. `train`, `val`, `test`: where it lies below `root`
    (`Format.keys`; for COCO {images: folder, annotations: JSON file}), "auto", or None. `make`: parameters of
    `ensure_scenes`, which then makes the scenes in `root`. `check`: check every pixel first, and "stop" at a fault that
    loses something, or "fix": go on with the dataset as a fixed copy would have it. `hold_out`: share of train that
    becomes val if there is none (see `held_out`). `size`, `shorter_side`: see `images.target_size`; size "auto": see
    `choose_size`. `augment`: see `augment.Augment`; `augment_strong`: before those, in epochs that begin in the first
    `strong_until` of the training. `cache_megabytes`: memory for decoded images, see `divide`. `limit_train`: the first
    images only. `exact`, `multiple`, `antialias`: see `to_model_input`. `pin_memory`, `uint8`: see `DetectionDataset`;
    what the training has not decided ("auto") is off. `workers`: processes that load images; "auto": see
    `choose_workers`.
    `tiles`: the side of the windows that images are cut into, or "auto" (`choose_tiles`), with `tile_overlap` of it in
    common; see `cut_into_tiles`.
    `annotation_cache`: folder that keeps what was read of COCO files, "auto" or None, see `annotation_cache.kept`.
    `shard_cache`: the folder for copies of shards that lie at an address (`shards.remote`).
    `subset`: settings of `choice.Choice`, which picks training images. `on_...`: see `coco.Reading`;
    `first_pixel`, `difficult`: see `voc.read_voc`. `mean`, `std`, `stride`: of the model. `seed`: of order and
    augmentation.

    After `setup`: `categories`, `report`, and the splits' `CocoSet`s in `sets`.
    The trainer needs `use_distributed_sampler=False`: the batches are shared among ranks here.
    """

    ensure: Callable[..., str] = staticmethod(ensure_scenes)
    """Makes the scenes that `make` asks for, where they are not there yet."""

    def __init__(
        self,
        *,
        root: str | Path,
        train: Mapping[str, Any] | str | None,
        val: Mapping[str, Any] | str | None,
        test: Mapping[str, Any] | str | None = None,
        size: int | str,
        mean: Sequence[float],
        std: Sequence[float],
        stride: int,
        seed: int,
        format: str = "coco",
        annotation_cache: str | None = AUTO,
        make: Mapping[str, int] | None = None,
        check: str | None = None,
        hold_out: float | None = None,
        shorter_side: int | None = None,
        batch_size: int | str = 16,
        eval_batch_size: int | None = None,
        workers: int | str = 0,
        augment: Sequence[Any] = (),
        augment_strong: Sequence[Any] = (),
        strong_until: float | int | str = 1.0,
        cache_megabytes: int | float = 0,
        on_bad_box: str = "drop",
        on_turned: str = "enclose",
        on_missing: str = "refuse",
        on_bad_image: str = "refuse",
        on_wrong_size: str = "refuse",
        on_crowd: str = "ignore",
        box_corners: bool = False,
        first_pixel: str | int = "auto",
        difficult: str = "keep",
        limit_train: int | None = None,
        limit_val: int | None = None,
        subset: Mapping[str, Any] | None = None,
        tiles: int | str | None = None,
        tile_overlap: float | int = OVERLAP,
        pin_memory: bool | str = False,
        uint8: bool | str = False,
        shard_cache: str | None = None,
        exact: Sequence[int] | None = None,
        multiple: int = 1,
        antialias: bool = True,
    ) -> None:
        super().__init__()
        check_counts(
            size=size, batch_size=batch_size, eval_batch_size=eval_batch_size or None, workers=workers,
            cache_megabytes=cache_megabytes, limit_train=limit_train, limit_val=limit_val,
        )  # fmt: skip
        if size == AUTO and (shorter_side is not None or make is not None):
            what = "shorter_side" if make is None else "make"
            raise ConfigError(f"data.size=auto goes by the longest side of photographs; with data.{what} say a number")
        until = 1.0 if isinstance(strong_until, str) else strong_until  # "auto": `settle` decides
        check_shares(strong_until=until, hold_out=hold_out)
        self.root = local_folder(root, shard_cache)
        self.make = None if make is None else dict(make)
        self.image: dict[str, Any] = {"size": size, "shorter_side": shorter_side, "mean": list(mean), "std": list(std)}
        self.image |= {} if exact is None else {"exact": list(exact)}  # checkpoints of before say neither
        self.image |= {} if multiple == 1 else {"multiple": multiple}
        self.image |= {} if antialias else {"antialias": False}
        self.stride, self.seed, self.workers = stride, seed, workers
        self.pin_memory, self.uint8 = pin_memory is True, uint8 is True
        self.batch_size = USUAL_BATCH if isinstance(batch_size, str) else batch_size
        self.eval_batch_size = eval_batch_size or self.batch_size
        self.augment = Augment(list(augment or ()), seed, list(augment_strong or ()))
        self.strong_until = float(until)
        self._progress: Callable[[], float] = lambda: 0.0
        self._growth: Callable[[int], float] = lambda batches: 1.0
        self.cache_megabytes = cache_megabytes
        self.on_bad_image = on_bad_image
        self.report = LoadReport()
        self._reader = SplitReader(
            self.root,
            format,
            {"train": train, "val": val, "test": test},
            self.report,
            reading={
                "on_bad_box": on_bad_box,
                "on_turned": on_turned,
                "on_missing": on_missing,
                "on_bad_image": on_bad_image,
                "on_wrong_size": on_wrong_size,
                "on_crowd": on_crowd,
                "box_corners": box_corners,
            },
            voc={"first_pixel": first_pixel, "difficult": difficult},
            annotation_cache=annotation_cache,
            check=check,
            hold_out=hold_out,
            limits={"train": limit_train, "val": limit_val, "test": None},
            subset=subset,
            tiles=tiles,
            tile_overlap=tile_overlap,
        )
        self._ready: dict[str, CocoSet] = {}
        self._place = 0, 1
        self.categories: Categories | None = None
        self.sets: dict[str, CocoSet] = {}
        self.tokenizer: AnyTokenizer | None = None
        self.attributes: tuple[str, ...] = ()
        self.train_batches: TrainBatches | None = None
        self._resume = (0, 0)
        self._train_dataset: DetectionDataset | None = None

    @property
    def format(self) -> str:
        """A key of `discover.FORMATS`."""
        return self._reader.format

    @property
    def splits(self) -> dict[str, Split | None]:
        """Where each split lies below `root`, or None; a val that is held out lies where train does."""
        return self._reader.splits

    @property
    def hold_out(self) -> float | None:
        """The share of train that becomes val where there is none."""
        return self._reader.hold_out

    @property
    def tiles(self) -> int | str | None:
        """The side of the windows that images are cut into; after `setup` a number or None."""
        return self._reader.tiles

    def setup(self, stage: str | None = None) -> None:
        """Read what `stage` needs ("fit", "validate", "test"; None: all); what was read before stays."""
        if self.make is not None and not self.sets:
            self.report.notices.append(self._made())
        wanted = _SPLITS.get(stage or "", tuple(name for name, split in self.splits.items() if split))
        if (self.categories is None or AUTO in (self.image["size"], self.tiles)) and "train" not in wanted:
            wanted = ("train", *wanted)  # only the training file knows the categories
        self._reader.look_at_all(tuple(SPLIT_WORDS) if "train" in wanted or self._reader.holds_out else wanted)
        for name in wanted:
            if name in self._ready:
                self.sets[name] = self._ready.pop(name)
            elif name not in self.sets and (self.splits[name] or name == "train" or stage in ("validate", "test")):
                self.sets[name] = self._read(name)
                self.report.splits[name] = self.sets[name].report
        if self.image["size"] == AUTO:
            self.settle({"size": choose_size(self.train_set)})
        if stage == "fit" and not self.train_set.report.boxes:
            raise DataError(f"the training set in {self.root} has no box to learn from; check its annotations with "
                            "'detr-mini data check'")  # fmt: skip
        if stage == "fit":
            self._look_at_test()
        if stage == "fit" and not self.splits["val"] and NO_VAL not in self.report.notices:
            self.report.notices.append(NO_VAL)

    def _look_at_test(self) -> None:
        """Read test before the training, so that what is wrong with it is not found after it.

        A test without boxes is left out, with a notice: val is measured instead.
        """
        if not self.splits["test"] or "test" in self.sets or "test" in self._ready:
            return
        try:
            test = self._read("test")
        except DataError as error:
            raise DataError(f"test: {error}; data.test=null trains without it and measures on val") from None
        if test.report.boxes:
            self._ready["test"] = test
            self.report.splits["test"] = test.report
            return
        self._reader.without_test = True
        what = "measured on val instead" if self.splits["val"] else "nothing can be measured on it"
        self.report.notices.append(f"test has {len(test)} images and no box; {what}")

    def _read(self, name: str) -> CocoSet:
        coco = self._reader.read(name, self.categories, self.image["size"])
        self.categories = self.categories or coco.categories
        return coco

    def _made(self) -> str:
        assert self.make is not None
        known = ("train", "val", "test", "seed", "size", "processes")
        for key in self.make:
            if key not in known:
                raise ConfigError(f"data.make.{key} does not exist{nearest(key, known)}")
        return self.ensure(self.root, **self.make)

    def evaluate_as(self, categories: Categories, tokenizer: AnyTokenizer | None = None) -> None:
        """Before `setup`: map the data to a checkpoint's `categories`, and read captions with its `tokenizer`.

        The training file is then not read for evaluation.
        """
        self.categories, self.tokenizer = categories, tokenizer

    def take(self, categories: Categories, train: CocoSet) -> None:
        """After `setup`: more categories, behind those of the data, and a training set with boxes of them."""
        self.categories = categories
        for sets in (self.sets, self._ready):
            sets.update({name: replace(coco, categories=categories) for name, coco in sets.items()})
        self.sets["train"] = replace(train, categories=categories)

    def records_of(
        self, paths: Sequence[Path], sizes: Sequence[tuple[int, int]], most: int | None = None
    ) -> ImageRecords:
        """After `setup`: more image files of these sizes (height, width), cut into windows as those of train are.

        Of more windows than `most`, as many stay.
        """
        side = None if self.tiles is None else int(self.tiles)
        return files_in_windows(paths, sizes, side, self._reader.tile_overlap, most)

    def limit_tokens(self, most: int) -> None:
        """Nothing to do: these data have no captions."""

    def divide(self, place: int, processes: int) -> None:
        """After `setup`: this is number `place` of the `processes` of a training on this machine.

        They divide the memory for decoded images, and each keeps others.
        """
        self._place = place, processes
        if self.cache_megabytes:
            cache, images = self.dataset("train", training=True).cache, len(self.train_set)
            each = "" if processes == 1 else f" in each of {processes} processes"
            all_of_them = "" if processes == 1 else " for all of them"
            self.report.notices.append(
                f"the cache keeps {cache.images} of {images} decoded training images{each}, "
                f"{cache.bytes / 2**20:.0f} MiB (limit {self.cache_megabytes:g}{all_of_them})"
            )

    def follow(self, progress: Callable[[], float], scale: Callable[[int], float]) -> None:
        """`progress()`: the share of the training that was done when the epoch began; `scale(batches)`: of the sides of
        a batch's images, which are rounded to multiples of the stride."""
        self._progress, self._growth = progress, scale

    def settle(self, chosen: Mapping[str, Chosen]) -> None:
        """Take what was chosen for `size`, `batch_size` or `strong_until` from the time that there is."""
        for name, choice in chosen.items():
            if name == "size":
                self.image["size"] = choice.value
            else:
                setattr(self, name, choice.value)
            self.report.choose(f"data.{name}", choice)

    @property
    def train_set(self) -> CocoSet:
        """The training split, after `setup("fit")`."""
        return self.sets["train"]

    @property
    def train_images(self) -> int:
        """Images of the training split before tiles are cut and others join them, after `setup("fit")`."""
        return self._reader.counted["train"]

    @property
    def val_set(self) -> CocoSet:
        """The validation split, after `setup("fit")` or `setup("validate")`."""
        return self.sets["val"]

    @property
    def test_set(self) -> CocoSet:
        """The test split, after `setup("test")`."""
        return self.sets["test"]

    @property
    def boxes_cropped_away(self) -> int:
        """Boxes that augmentation has moved out of their image so far."""
        return 0 if self._train_dataset is None else self._train_dataset.boxes_cropped_away

    def resume_at(self, epoch: int, start_batch: int) -> None:
        """The next training goes on inside `epoch`, after its first `start_batch` batches."""
        self._resume = (epoch, start_batch)
        if self.train_batches is not None:
            self.train_batches.resume_at(epoch, start_batch)

    def dataset(self, name: str, *, training: bool = False) -> DetectionDataset:
        """The split `name` as model inputs and targets; augmented and cached in training only."""
        refuse_undecodable(self.sets[name])
        return DetectionDataset(self.sets[name], **self.how(training))

    def how(self, training: bool) -> dict[str, Any]:
        """The arguments of a `DetectionDataset` besides its images."""
        return {
            **self.image,
            "augment": self.augment if training else None,
            "oversampling": OVERSAMPLING if training else None,
            "cache_megabytes": self.cache_megabytes / self._place[1] if training else 0,
            "cache_first": len(self.train_set) * self._place[0] // self._place[1] if training else 0,
            "on_bad_image": self.on_bad_image,
            "uint8": self.uint8,
        }

    def train_dataloader(self) -> BatchLoader:
        """Shuffled, augmented batches; this rank's share."""
        dataset = self._train_dataset = self.dataset("train", training=True)
        rank, world = self._rank_and_world()
        sizes = self.train_set.records.sizes.double()
        self.train_batches = TrainBatches(
            len(dataset), self.batch_size, seed=self.seed, rank=rank, world=world, strong=self._strong,
            scale=self._scale, sizes=sizes,
        )  # fmt: skip
        self.train_batches.resume_at(*self._resume)
        return self._loader(dataset, self.train_batches)

    def _strong(self) -> bool:
        """Whether the epoch that begins has the strong augmentation."""
        return bool(self.augment.strong) and self._progress() < self.strong_until

    def _scale(self, batches: int) -> float:
        """Of the sides of a batch's images; the longest side becomes a multiple of the stride."""
        scale, size = self._growth(batches), self.image["size"]
        return 1.0 if scale >= 1 else min(1.0, max(1, round(size * scale / self.stride)) * self.stride / size)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Every val image once, in order; this rank's share."""
        return self.evaluation_loader("val") if "val" in self.sets else []  # Lightning's word for "no such split"

    def test_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Every test image once, in order; this rank's share."""
        return self.evaluation_loader("test") if "test" in self.sets else []

    def evaluation_loader(
        self, name: str, image_ids: Collection[int] | None = None, *, shared: bool = True
    ) -> BatchLoader:
        """Images of a split in order, all or only `image_ids`: this rank's share, or everything if not `shared`."""
        dataset = self.dataset(name)
        wanted = set(dataset.coco.image_ids if image_ids is None else image_ids)
        indices = [index for index, image_id in enumerate(dataset.coco.image_ids) if image_id in wanted]
        rank, world = self._rank_and_world() if shared else (0, 1)
        return self._loader(dataset, EvaluationBatches(indices, self.eval_batch_size, rank=rank, world=world))

    def _loader(self, dataset: DetectionDataset, batches: Any) -> BatchLoader:
        side = self.image["size"]
        largest = min(batches.batch_size, len(dataset)), side * (self.image["shorter_side"] or side)
        workers = self.workers
        if isinstance(workers, str):
            workers = choose_workers(self._place[1], bytes_of(*largest, dataset.value_bytes))
        return BatchLoader(
            dataset,
            batches,
            collate_samples=self.collate(dataset),
            workers=workers,
            pin_memory=self.pin_memory,
            largest=largest,
        )

    def collate(self, dataset: DetectionDataset) -> Callable[[Sequence[Any]], Batch]:
        """How samples of the dataset become a batch."""
        return partial(collate_pairs, stride=self.stride, normalise=dataset.normalise)

    def _rank_and_world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """A copy that may overlap with computing (pinned memory); on a CPU only pixels have to become floats."""
        done = device.type == "cpu" and batch.normalise is None
        return batch if done else batch.to(device, non_blocking=self.pin_memory)
