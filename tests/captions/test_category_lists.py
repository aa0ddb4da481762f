"""Category names as captions: of any boxes, what is there and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.captions.category_lists import CategoryCaptions
from detr_mini.captions.datamodule import CaptionData
from detr_mini.errors import ConfigError, DataError, UserError
from detr_mini.structures import Captions, Target
from detr_mini.text.tokenizers import CharacterTokenizer

NAMES = ("cup", "door", "cupboard", "Hot Dog", "dog", "person")


def target(labels: list[int], crowd: list[bool] | None = None) -> Target:
    n = len(labels)
    is_crowd = torch.tensor(crowd or [False] * n, dtype=torch.bool)
    return Target(torch.full((n, 4), 0.5), torch.tensor(labels, dtype=torch.long), 7, (40, 60), is_crowd, torch.ones(n))


labels_strategy = st.lists(st.integers(0, len(NAMES) - 1), max_size=7)


@given(labels_strategy, st.data(), st.integers(0, 5), st.integers(1, 7), st.sampled_from([None, 5]))
def test_each_name_is_tied_to_exactly_the_boxes_of_its_category(
    labels: list[int], drawn: st.DataObject, epoch: int, at_once: int, count: int | None
) -> None:
    crowd = drawn.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
    captions = CategoryCaptions(NAMES, 0, count, at_once)(0, epoch, target(labels, crowd))
    own = [label for label, is_crowd in zip(labels, crowd, strict=True) if not is_crowd]
    crowded = {NAMES[label].lower() for label, is_crowd in zip(labels, crowd, strict=True) if is_crowd}
    asked = []
    for caption in captions:
        assert 1 <= len(caption.phrases) <= at_once
        names = [caption.text[begin:end] for phrase in caption.phrases for begin, end in phrase.spans]
        assert ". ".join(names) + "." == caption.text
        assert len(set(names)) == len(names)
        for name, phrase in zip(names, caption.phrases, strict=True):
            assert phrase.asked
            assert name not in crowded
            assert [NAMES[own[thing]].lower() for thing in phrase.things] == [name] * sum(
                NAMES[label].lower() == name for label in own
            )
        asked += names
    if count is None:
        assert asked == [name.lower() for name in NAMES if name.lower() not in crowded]


def test_captions_are_new_each_epoch_the_same_for_the_same_seed_and_name_both_sorts() -> None:
    source = CategoryCaptions(NAMES, 3, 20)
    one = source(0, 0, target([0, 4]))
    assert one == source(0, 0, target([0, 4]))
    assert one != source(0, 1, target([0, 4]))
    assert one != CategoryCaptions(NAMES, 4, 20)(0, 0, target([0, 4]))
    things = [phrase.things for caption in one for phrase in caption.phrases]
    assert {(), (0,), (1,)} == set(things)
    assert len({caption.text for caption in source(0, 0, target([]))}) > 5


def test_G_02_training_captions_hold_as_many_whole_names_as_the_model_takes() -> None:
    names = tuple(f"category {number}" for number in range(120))
    tokenizer = CharacterTokenizer.train(names, size=400)
    fitted = CategoryCaptions(names, 0, 30).fitted(tokenizer, 60)
    lengths = [len(tokenizer.encode(caption.text).framed().ids) for caption in fitted(0, 0, target([119]))]
    assert 40 < max(lengths) <= 60
    with pytest.raises(UserError, match=r"the model takes at most 10 tokens; these names are too long: 'category 0'"):
        CategoryCaptions(names, 0, 30).fitted(tokenizer, 10)


def data(root: Path, **changes: Any) -> CaptionData:
    split = {"images": "train", "annotations": "annotations/train.json"}
    how = {
        "root": root, "train": split, "val": split, "captions": {"train": "categories", "val": "categories"},
        "tokenizer": {"kind": "words", "size": 500}, "size": 64, "mean": [0.5] * 3, "std": [0.25] * 3, "stride": 16,
        "seed": 0, "batch_size": 2, "captions_per_image": 4,
    }  # fmt: skip
    made = CaptionData(**{**how, **changes})
    made.setup("fit")
    return made


def captions_of(loader: Iterable[Any]) -> list[Captions]:
    return [batch.captions for batch in loader if batch.captions is not None]


def test_any_boxes_give_captions_whose_tokens_speak_of_them(
    make_coco: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    boxes = [{"bbox": [2, 2, 9, 9]}, {"bbox": [20, 8, 9, 9], "category_id": 3}]
    make_coco(annotations=boxes)
    made = data(tmp_path)
    assert made.tokenizer is not None
    assert set(made.tokenizer.words) == {".", "bolt", "nut", "washer"}  # type: ignore[union-attr]
    (captions,) = captions_of(made.train_dataloader())
    assert torch.bincount(captions.caption_image).tolist() == [4, 4]
    (captions,) = captions_of(made.val_dataloader())
    assert [caption.text for caption in captions.records] == ["bolt. nut. washer."] * 2
    assert captions.token_map is not None
    words = [captions.records[0].text[begin:end] for begin, end in captions.spans[0]]
    spoken = [[words[token] for token in row.nonzero()[:, 0].tolist()] for row in captions.token_map[0]]
    assert spoken == [["bolt"], ["washer"]]
    assert not captions.token_map[1].any()


def written(root: Path, caption: str) -> None:
    """A caption of the first image."""
    content = json.loads((root / "annotations" / "train.json").read_text())
    image = {**content["images"][0], "caption": caption}
    tied = [{**content["annotations"][0], "image_id": image["id"], "tokens_positive": [[2, 6]]}]
    file = {"images": [image], "annotations": tied, "categories": content["categories"]}
    (root / "captions.json").write_text(json.dumps(file))


def test_captions_of_a_file_are_mixed_with_names_and_with_boxes_alone(
    make_coco: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    make_coco(annotations=[{"bbox": [2, 2, 9, 9]}])
    written(tmp_path, "a bolt on a desk")
    files = {"train": "captions.json", "val": None}
    (captions,) = captions_of(data(tmp_path, captions=files, categories_share=0.5).train_dataloader())
    kinds = [caption.kind == "names" for caption in captions.records]
    assert (sum(kinds), len(kinds)) == (4, 5)
    alone = data(tmp_path, captions=files, batch_size=1, eval_batch_size=1).train_dataloader()
    assert sorted(batch.captions is None for batch in alone) == [False, True]


def test_a_training_caption_longer_than_the_model_takes_is_said_and_not_cut(
    make_coco: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    make_coco(annotations=[{"bbox": [2, 2, 9, 9]}])
    written(tmp_path, "a bolt on a desk")
    made = data(tmp_path, captions={"train": "captions.json", "val": None})
    made.limit_tokens(7)
    with pytest.raises(DataError, match=r"captions\.json: 1 of 1 captions have more than the 6 tokens .* 'a bolt on"):
        made.limit_tokens(6)


@pytest.mark.parametrize(("share", "lists"), [(0.9, 3), (0.1, 0)])
def test_a_share_that_leaves_no_list_or_nothing_else_is_refused(
    make_coco: Callable[..., tuple[Path, Path]], tmp_path: Path, share: float, lists: int
) -> None:
    make_coco(annotations=[{"bbox": [2, 2, 9, 9]}])
    written(tmp_path, "a bolt on a desk")
    how = {"captions": {"train": "captions.json", "val": None}, "captions_per_image": 3}
    both = rf"data\.categories_share={share} makes {lists} of data\.captions_per_image=3 captions lists of categories"
    with pytest.raises(ConfigError, match=both):
        data(tmp_path, **how, categories_share=share)
    assert data(tmp_path, **how, categories_share=0.4).sentences


def test_the_vocabulary_has_a_name_as_captions_spell_it(
    make_coco: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    make_coco(annotations=[{"bbox": [2, 2, 9, 9]}], categories=[{"id": 1, "name": "\u0130stanbul"}])
    made: Any = data(tmp_path)
    assert set(made.tokenizer.words) == {".", "istanbul"}


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_makes_no_sense_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.categories_share is .*; it must be at least 0 and less than 1"):
        data(tmp_path, categories_share=share)
