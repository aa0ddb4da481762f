"""Images, boxes and captions as a LightningDataModule."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from detr_mini.captions.category_lists import CategoryCaptions, Together, beside_names
from detr_mini.captions.directions import SteadyAugment, axes_moved, cuts
from detr_mini.captions.from_boxes import Words, checked_kinds, words_for
from detr_mini.captions.from_boxes_files import ensure_referred
from detr_mini.captions.made_dataset import WEIGHTS, ensure_captioned, items_of
from detr_mini.captions.mdetr_format import CATEGORIES, MADE
from detr_mini.captions.templates.generator import weights_of
from detr_mini.captions.templates.relations import ATTRIBUTES as LOOKS
from detr_mini.captions.templates.scene import ATTRIBUTES, Item
from detr_mini.captions.token_targets import collate_samples
from detr_mini.captions.training_sources import (
    BoxCaptions,
    CaptionsOf,
    FileCaptions,
    Fits,
    MadeCaptions,
    axes_named,
    fitted,
)
from detr_mini.data.augment import Augment
from detr_mini.data.dataset import DetectionDataset
from detr_mini.data.module import DetectionData
from detr_mini.data.samplers import Key
from detr_mini.errors import ConfigError, DataError, nearest
from detr_mini.formats.columns import read_json
from detr_mini.formats.split import CocoSet
from detr_mini.formats.values import is_text
from detr_mini.phrases import Caption
from detr_mini.structures import Batch, Target
from detr_mini.text.names import listed
from detr_mini.text.tokenizers import KINDS as TOKENIZERS
from detr_mini.text.tokenizers import AnyTokenizer, lowered

TEXTS = 20_000
"""Captions from which a tokeniser learns its vocabulary, at most; of a file all."""
EACH = 2
"""Captions of each kind for an image of val or test, by default."""
ROUNDS = 4
"""Rounds of made captions per image from which the tokeniser learns, so that it misses no rare word."""

REFER = ("names", "complete", "folder", "each", "read_only")


class CaptionDataset(DetectionDataset):
    """Images, targets and captions for keys (index, epoch, strong)."""

    def __init__(self, coco: CocoSet, captions: CaptionsOf, **how: Any) -> None:
        super().__init__(coco, **how)
        self.captions = captions
        self._steady = None if self.augment is None else SteadyAugment(self.augment)

    def augment_of(self, index: int) -> Augment | None:
        """The augmentation without the transforms that would make a caption of this image false (left, above, red)."""
        return None if self._steady is None else self._steady.along(axes_named(self.captions, index))

    def __getitem__(self, key: Key | tuple[int, int]) -> tuple[Tensor, Target, list[Caption]]:  # type: ignore[override]  # and the captions
        image, target = super().__getitem__(key)
        own = beside_names(self.captions)
        # lists of names describe the objects that are left, other captions all objects; an unreadable image has none
        if not isinstance(own, CategoryCaptions) and len(target.labels) < len(self.coco.target(target.image_id).labels):
            return image, target, []
        if isinstance(own, MadeCaptions):
            target = replace(target, attributes=own.attributes(key[0]))
        return image, target, self.captions(key[0], key[1], target)


class CaptionData(DetectionData):
    """`DetectionData` (whose settings are the `kwargs`) with captions.

    `captions`: for each split a grounded file below `root` (see `mdetr_format`), "made", or "categories" (see
    `CategoryCaptions`). `captions_per_image`: in training. `categories_share`: the share of them that lists categories.
    `refer`: for captions made from boxes alone, the `names` and `complete` categories (see `words_for`), and a `folder`
    of files; a missing file of val or test is made, with `each` captions of every kind per image, unless `read_only`
    lists the split. Without `refer` captions are made from the attributes of made scenes, whose `make` are parameters
    of `ensure_captioned`. `kinds`: how often training draws each kind, `longest_chain`: 2 or 3 relations. `tokenizer`:
    its `kind` and vocabulary `size`, learned from the training captions. After `setup`: `tokenizer`, the captions of
    each split in `sentences`, and the names of the `attributes` of training's objects.
    """

    ensure: Callable[..., str] = staticmethod(ensure_captioned)

    def __init__(
        self,
        *,
        captions: Mapping[str, str | None],
        tokenizer: Mapping[str, Any],
        captions_per_image: int = 8,
        categories_share: float | int = 0.0,
        kinds: Mapping[str, Any] | None = None,
        longest_chain: int = 3,
        refer: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.tiles is not None:
            raise ConfigError(f"data.tiles={self.tiles} does not work with captions: a sentence speaks of the whole "
                              "image; leave it out")  # fmt: skip
        for transform in self._all_transforms() if captions.get("train") not in (CATEGORIES, None) else ():
            if getattr(transform, "cuts", False) or getattr(transform, "draws", False) or cuts(transform):
                raise ConfigError(f"data.augment holds {type(transform).__name__}, which adds or cuts off objects, so "
                                  "that captions of the image would no longer be true; leave it out (lists of "
                                  "categories, data.captions.train=categories, may have it)")  # fmt: skip
        if captions_per_image < 1:
            raise ConfigError(f"data.captions_per_image is {captions_per_image}; it must be at least 1")
        if not 0 <= categories_share < 1:
            raise ConfigError(f"data.categories_share is {categories_share}; it must be at least 0 and less "
                              "than 1 (to train on categories alone, set data.captions.train=categories)")  # fmt: skip
        for kind in kinds or () if refer is None else ():
            if kind not in WEIGHTS:
                raise ConfigError(f"data.kinds.{kind} does not exist{nearest(kind, WEIGHTS)}")
        for key in refer or ():
            if key not in REFER:
                raise ConfigError(f"data.refer.{key} does not exist{nearest(key, REFER)}")
        if tokenizer["kind"] not in TOKENIZERS:
            known = f"{nearest(tokenizer['kind'], TOKENIZERS)}; the kinds are {', '.join(TOKENIZERS)}"
            raise ConfigError(f"tokeniser '{tokenizer['kind']}' does not exist{known}")
        taken = ("kind", *inspect.signature(TOKENIZERS[tokenizer["kind"]].train).parameters)
        for key, value in tokenizer.items():
            if key not in taken and value is not None:
                raise ConfigError(f"data.tokenizer.{key} is no setting of the kind {tokenizer['kind']}; set it to null")
        self.caption_files, self.wanted_tokenizer = dict(captions), dict(tokenizer)
        self.captions_per_image, self.categories_share = captions_per_image, categories_share
        self.longest_chain = longest_chain
        self.kinds = weights_of(kinds, WEIGHTS) if refer is None else checked_kinds(kinds)
        self.refer = None if refer is None else dict(refer)
        self.sentences: dict[str, CaptionsOf] = {}

    def _all_transforms(self) -> list[Any]:
        return [*self.augment.strong, *self.augment.transforms]

    def setup(self, stage: str | None = None) -> None:
        """See `DetectionData`. Also reads or makes the captions, and trains the tokeniser on those of training."""
        super().setup(stage)
        for name in self.sets:
            if name not in self.sentences and self.caption_files.get(name):
                self.sentences[name] = self._sentences(name)
                if name == "train":
                    self._warn_of_moves(self.sentences[name])
        if "train" in self.sentences and isinstance(beside_names(self.sentences["train"]), MadeCaptions):
            self.attributes = ATTRIBUTES
        if self.tokenizer is None and stage in ("fit", None):  # for evaluation it comes from the checkpoint
            self.tokenizer = self._trained_tokenizer()

    def _look_at_test(self) -> None:
        """See `DetectionData`. The captions of test are read or made before the training, too."""
        super()._look_at_test()
        if "test" in self._ready and "test" not in self.sentences and self.caption_files.get("test"):
            try:
                self.sentences["test"] = self._sentences("test")
            except DataError as error:
                raise DataError(f"test: {error}; data.captions.test=null trains without these captions") from None

    @property
    def _is_trained(self) -> bool:
        """Whether the words are a trained detector's: it is measured, or its training goes on."""
        return self.tokenizer is not None

    def _set(self, name: str) -> CocoSet:
        """A split that was read; test is ready before the training, and in `sets` after it."""
        return self.sets[name] if name in self.sets else self._ready[name]

    def _sentences(self, name: str) -> CaptionsOf:
        names, count = self._set(name).categories.names, self.captions_per_image if name == "train" else None
        if self.caption_files[name] == CATEGORIES:
            return CategoryCaptions(names, self.seed, count)
        if count is None or not self.categories_share:
            return self._about(name, count)
        lists = round(self.categories_share * count)
        if not 0 < lists < count and not self._is_trained:
            raise ConfigError(f"data.categories_share={self.categories_share:g} makes {lists} of "
                              f"data.captions_per_image={count} captions lists of categories; change one of the two, "
                              "so that there is a list and another caption")  # fmt: skip
        if not lists:  # as runs of earlier versions have it
            return self._about(name, count)
        return Together(self._about(name, count - lists or count), CategoryCaptions(names, self.seed, lists))

    def _about(self, name: str, count: int | None) -> CaptionsOf:
        """Captions of a file, or made ones, `count` per image."""
        coco, file = self._set(name), str(self.caption_files[name])
        words = self._words(coco)
        if file == MADE:
            how = self.seed, self.captions_per_image if count is None else count, self.kinds, self.longest_chain
            if words is not None:
                return BoxCaptions(words, coco.categories.names, *how)
            return MadeCaptions(self._items(name), coco.image_ids, *how)
        path, notices = self.root / file, self.report.notices
        if self.refer is not None and words is not None:
            path = Path(self.refer.get("folder") or self.root) / file
            if name not in (self.refer.get("read_only") or ()):
                each = self.refer.get("each") or EACH
                notices.append(ensure_referred(path, coco, words, each=each, weights=self.kinds))
            elif not path.is_file():
                raise DataError(f"there is no captions file {path}, and stored settings make none outside the current "
                                f"folder; data.captions.{name}={path.absolute()} makes it")  # fmt: skip
        return FileCaptions.read(path, coco, self.seed, count, words is not None, notices, self._is_trained)

    def _warn_of_moves(self, sentences: CaptionsOf) -> None:
        """Report the transforms that are left out for training images whose captions they would make false."""
        spoken = [axes_named(sentences, index) for index in range(len(self.train_set))]
        for transform in self._all_transforms():
            moved = axes_moved(transform) if any(spoken) else frozenset[str]()
            still = sum(bool(axes & moved) for axes in spoken)
            if still:
                self.report.notices.append(
                    f"data.augment holds {type(transform).__name__}: it is left out for {still} of {len(spoken)} "
                    "images, whose captions name a side or a colour"
                )

    def _words(self, coco: CocoSet) -> Words | None:
        """The nouns of the categories, where captions are made from boxes alone."""
        if self.refer is None:
            return None
        return words_for(coco.categories.names, self.refer.get("names"), self.refer.get("complete"))

    def _items(self, name: str) -> tuple[tuple[Item, ...], ...]:
        """The items of each made scene of a split, with their attributes."""
        path, image_ids = self._annotations(name), self._set(name).image_ids
        grouped: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in image_ids}
        for annotation in read_json(path)["annotations"]:
            looks = annotation.get("attributes")
            if not isinstance(looks, Mapping) or set(looks) != set(LOOKS) or not all(map(is_text, looks.values())):
                raise DataError(f"{path} has annotations without attributes of made scenes ({', '.join(LOOKS)}): no "
                                f"captions can be made of them; set data.captions.{name} to a file with "
                                "captions")  # fmt: skip
            if annotation["image_id"] in grouped:
                grouped[annotation["image_id"]].append(annotation)
        return tuple(tuple(items_of(grouped[image_id])) for image_id in image_ids)

    def _annotations(self, name: str) -> Path:
        """The COCO file of a split. ConfigError where its format has none."""
        in_shards, split = self._set(name).records.in_shards, self.splits[name]
        if in_shards is not None:
            return in_shards.store.annotations
        if split is None or self.format != "coco":
            raise ConfigError(f"data.captions.{name}=made needs objects with attributes, which the format "
                              f"{self.format} does not have; set it to a file with captions, as "
                              "'detr-mini data refer' makes from boxes, or to categories")  # fmt: skip
        return self.root / split["annotations"]

    def _trained_tokenizer(self) -> AnyTokenizer:
        if "train" not in self.sentences:
            raise DataError("there are no captions to train on; set data.captions.train")
        settings = {key: value for key, value in self.wanted_tokenizer.items() if value is not None}
        return TOKENIZERS[settings.pop("kind")].train(self._texts(), **settings)

    def _texts(self) -> Iterator[str]:
        """Captions to learn a vocabulary from. A pretrained tokeniser uses none."""
        coco, sentences, given = self.sets["train"], self.sentences["train"], 0
        if isinstance(sentences, CategoryCaptions | Together):  # the captions below may miss some
            yield from [listed([lowered(name) for name in coco.categories.names])[0]] * 2
        source, most = beside_names(sentences), float(TEXTS)
        if isinstance(source, FileCaptions):  # an epoch has some of an image's captions, another has others
            source, most = replace(source, count=None), math.inf
            sentences = replace(sentences, own=source) if isinstance(sentences, Together) else source
        rounds = ROUNDS if isinstance(source, BoxCaptions) else 1
        order = random.Random(0).sample(range(len(coco)), len(coco))  # categories often come one after another
        for which in range(rounds * len(coco)):
            before, place = divmod(which, len(coco))
            index = order[place]
            own = sentences(index, -1 - before, coco.target(coco.image_ids[index]))
            yield from (lowered(caption.text) for caption in own)
            given += len(own)
            if given >= most:
                break

    def limit_tokens(self, most: int) -> None:
        """Limit captions to `most` tokens, see `fitted`. DataError for longer captions of a user's file."""
        assert self.tokenizer is not None
        fits = Fits(self.tokenizer, most)
        for name, sentences in self.sentences.items():
            self.sentences[name] = fitted(sentences, fits, self._set(name), self.report.notices)

    def dataset(self, name: str, *, training: bool = False) -> DetectionDataset:
        """The split `name`, with captions if it has any."""
        if name not in self.sentences:
            return super().dataset(name, training=training)
        return CaptionDataset(self.sets[name], self.sentences[name], **self.how(training))

    def collate(self, dataset: DetectionDataset) -> Callable[[Sequence[Any]], Batch]:
        """The function that makes a batch of samples."""
        if not isinstance(dataset, CaptionDataset):
            return super().collate(dataset)
        assert self.tokenizer is not None
        return partial(collate_samples, stride=self.stride, tokenizer=self.tokenizer, normalise=dataset.normalise)
