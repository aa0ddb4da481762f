"""Images, boxes and captions as a LightningDataModule."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detr_mini.captions.captions_of_split import read_captions
from detr_mini.captions.category_lists import CategoryCaptions, Together, beside_names
from detr_mini.captions.directions import SteadyAugment, axes_moved, axes_of, cuts
from detr_mini.captions.from_boxes import Words, checked_kinds, words_for
from detr_mini.captions.from_boxes_files import ensure_referred
from detr_mini.captions.made_dataset import WEIGHTS, ensure_captioned, items_of
from detr_mini.captions.mdetr_format import CATEGORIES, MADE
from detr_mini.captions.templates.scene import ATTRIBUTES, Item
from detr_mini.captions.token_targets import collate_captions
from detr_mini.captions.training_sources import BoxCaptions, CaptionsOf, FileCaptions, MadeCaptions
from detr_mini.data.augment import Augment
from detr_mini.data.collate import collate
from detr_mini.data.dataset import DetectionDataset
from detr_mini.data.module import DetectionData
from detr_mini.data.samplers import Key
from detr_mini.errors import ConfigError, DataError, nearest
from detr_mini.formats.columns import read_json
from detr_mini.formats.split import CocoSet
from detr_mini.phrases import Caption
from detr_mini.structures import Batch, Target
from detr_mini.text.names import listed
from detr_mini.text.tokenizers import KINDS as TOKENIZERS
from detr_mini.text.tokenizers import AnyTokenizer, lowered

TEXTS = 20_000
"""Captions from which a tokeniser learns its vocabulary, at most."""
EACH = 2
"""Captions of each kind for an image of val or test, by default."""
ROUNDS = 4
"""Rounds of made captions per image from which the tokeniser learns, so that it misses no rare word."""

REFER = ("names", "complete", "folder", "each")


class CaptionDataset(DetectionDataset):
    """Images, targets and captions for keys (index, epoch, strong)."""

    def __init__(self, coco: CocoSet, captions: CaptionsOf, **how: Any) -> None:
        super().__init__(coco, **how)
        self.captions = captions
        self._steady = None if self.augment is None else SteadyAugment(self.augment)

    def augment_of(self, index: int) -> Augment | None:
        """The augmentation without the transforms that would make a caption of this image false (left, above)."""
        own = beside_names(self.captions)
        if self._steady is None or not isinstance(own, FileCaptions):
            return self.augment
        axes = frozenset[str]().union(*(axes_of(caption.text) for caption in own.captions[index]))
        return self._steady.along(axes)

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
    of files; a missing file of val or test is made, with `each` captions of every kind per image. Without `refer`
    captions are made from the attributes of made scenes, whose `make` are parameters of `ensure_captioned`. `kinds`:
    how often training draws each kind, `longest_chain`: 2 or 3 relations. `tokenizer`: its `kind` and vocabulary
    `size`, learned from the training captions. After `setup`: `tokenizer`, the captions of each split in `sentences`,
    and the names of the `attributes` of training's objects.
    """

    ensure: Callable[..., str] = staticmethod(ensure_captioned)

    def __init__(
        self,
        *,
        captions: Mapping[str, str | None],
        tokenizer: Mapping[str, Any],
        captions_per_image: int = 8,
        categories_share: float | int = 0.0,
        kinds: Mapping[str, float | int] | None = None,
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
        self.from_categories = round(categories_share * captions_per_image)
        self.captions_per_image, self.longest_chain = captions_per_image, longest_chain
        self.kinds = {**WEIGHTS, **(kinds or {})} if refer is None else checked_kinds(kinds)
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
        if "train" in self.sentences and isinstance(beside_names(self.sentences["train"]), MadeCaptions):
            self.attributes = ATTRIBUTES
        if self.tokenizer is None and stage in ("fit", None):  # for evaluation it comes from the checkpoint
            self.tokenizer = self._trained_tokenizer()

    def _sentences(self, name: str) -> CaptionsOf:
        names, count = self.sets[name].categories.names, self.captions_per_image if name == "train" else None
        if self.caption_files[name] == CATEGORIES:
            return CategoryCaptions(names, self.seed, count)
        if count is None or not self.from_categories:
            return self._about(name, count)
        own = self._about(name, count - self.from_categories)
        return Together(own, CategoryCaptions(names, self.seed, self.from_categories))

    def _about(self, name: str, count: int | None) -> CaptionsOf:
        """Captions of a file, or made ones, `count` per image."""
        coco, file = self.sets[name], str(self.caption_files[name])
        words = self._words(coco)
        if file != MADE:
            path = self.root / file
            if self.refer is not None and words is not None:
                path = Path(self.refer.get("folder") or self.root) / file
                each = self.refer.get("each") or EACH
                self.report.notices.append(ensure_referred(path, coco, words, each=each, weights=self.kinds))
            found = read_captions(path, coco)
            if name == "train":
                self._warn_of_moves(path, [frozenset().union(*(axes_of(c.text) for c in found[i])) for i in found])
            return FileCaptions(tuple(tuple(found[i]) for i in coco.image_ids), coco.image_ids, self.seed, count)
        how = self.seed, count or self.captions_per_image, self.kinds, self.longest_chain
        if words is not None:
            return BoxCaptions(words, coco.categories.names, *how)
        return MadeCaptions(self._items(name), coco.image_ids, *how)

    def _warn_of_moves(self, path: Path, spoken: Sequence[frozenset[str]]) -> None:
        """Report the transforms that are left out for images whose captions they would make false."""
        for transform in self._all_transforms():
            moved = axes_moved(transform) if any(spoken) else frozenset[str]()
            still = sum(bool(axes & moved) for axes in spoken)
            if still:
                self.report.notices.append(
                    f"data.augment holds {type(transform).__name__}: it is left out for {still} of {len(spoken)} "
                    f"images, whose captions in {path} say left or above"
                )

    def _words(self, coco: CocoSet) -> Words | None:
        """The nouns of the categories, where captions are made from boxes alone."""
        if self.refer is None:
            return None
        return words_for(coco.categories.names, self.refer.get("names"), self.refer.get("complete"))

    def _items(self, name: str) -> tuple[tuple[Item, ...], ...]:
        """The items of each made scene of a split, with their attributes."""
        path, image_ids = self._annotations(name), self.sets[name].image_ids
        grouped: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in image_ids}
        for annotation in read_json(path)["annotations"]:
            if "attributes" not in annotation:
                raise DataError(f"{path} has annotations without attributes: no captions can be made of them; "
                                f"set data.captions.{name} to a file with captions")  # fmt: skip
            if annotation["image_id"] in grouped:
                grouped[annotation["image_id"]].append(annotation)
        return tuple(tuple(items_of(grouped[image_id])) for image_id in image_ids)

    def _annotations(self, name: str) -> Path:
        """The COCO file of a split. ConfigError where its format has none."""
        in_shards, split = self.sets[name].records.in_shards, self.splits[name]
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
            yield from [listed([name.lower() for name in coco.categories.names])[0]] * 2
        source = beside_names(sentences)
        rounds = ROUNDS if isinstance(source, BoxCaptions) else 1
        order = random.Random(0).sample(range(len(coco)), len(coco))  # categories often come one after another
        for which in range(rounds * len(coco)):
            before, place = divmod(which, len(coco))
            index = order[place]
            own = sentences(index, -1 - before, coco.target(coco.image_ids[index]))
            yield from (lowered(caption.text) for caption in own)
            given += len(own)
            if given >= TEXTS:
                break

    def limit_tokens(self, most: int) -> None:
        """Limit captions to `most` tokens: fewer categories in each list, DataError for longer captions of a file."""
        assert self.tokenizer is not None
        for name, sentences in self.sentences.items():
            own = beside_names(sentences)
            if isinstance(own, FileCaptions):
                own.check(self.root / str(self.caption_files[name]), self.tokenizer, most)
            if isinstance(own, CategoryCaptions):
                self.sentences[name] = own.fitted(self.tokenizer, most)
            if isinstance(sentences, Together):
                self.sentences[name] = replace(sentences, names=sentences.names.fitted(self.tokenizer, most))

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
        return partial(_collate, stride=self.stride, tokenizer=self.tokenizer, normalise=dataset.normalise)


def _collate(
    samples: Sequence[tuple[Tensor, Target, list[Caption]]],
    stride: int,
    tokenizer: AnyTokenizer,
    normalise: Callable[[Tensor], Tensor] | None,
) -> Batch:
    images, targets, captions = zip(*samples, strict=True)
    batch = collate(images, targets, stride, normalise)
    if not any(captions):  # only boxes
        return batch
    block = collate_captions(tokenizer, captions, batch.packed.counts)
    known = [target.attributes for target in targets if target.attributes is not None]
    if len(known) == len(targets):
        block = replace(block, attributes=pad_sequence(known, batch_first=True))
    return replace(batch, captions=block)
