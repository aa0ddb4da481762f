"""Sentences stay true: whatever the transform, whatever the letters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from data_parts import write_coco
from detr_mini.captions.datamodule import CaptionData
from detr_mini.captions.directions import axes_moved, axes_of, cuts
from detr_mini.data.augment import (
    RandomChannelPermutation,
    RandomHorizontalFlip,
    RandomInversion,
    RandomTranspose,
    RandomVerticalFlip,
)
from detr_mini.data.colour import RandomColourJitter
from detr_mini.errors import ConfigError
from detr_mini.text.tokenizers import CharacterTokenizer, SubwordTokenizer, WordTokenizer, lowered


class Mirrored(torch.nn.Module):
    """Somebody's own flip, with no attribute that says so."""

    def __call__(self, image: torch.Tensor, boxes: torch.Tensor) -> Any:
        return RandomHorizontalFlip(1.0)(image, boxes)


@pytest.mark.parametrize(
    ("transform", "moved"),
    [
        (v2.RandomHorizontalFlip(0.01), "x"), (v2.RandomVerticalFlip(0.3), "y"), (Mirrored(), "x"),
        (RandomHorizontalFlip(), "x"), (RandomVerticalFlip(), "y"), (RandomTranspose(), "xy"),
        (v2.RandomApply([v2.RandomHorizontalFlip(0.02)], 0.02), "x"), (v2.Compose([v2.RandomVerticalFlip(0.02)]), "y"),
        (v2.RandomRotation((180, 180)), "xy"), (v2.ColorJitter(0.3), ""), (RandomInversion(), ["colour"]),
        (v2.RandomGrayscale(), ["colour"]), (RandomChannelPermutation(), ["colour"]), (v2.Grayscale(3), ["colour"]),
        (v2.ColorJitter(hue=0.5), ["colour"]),
        (v2.RandomApply([v2.ColorJitter(saturation=(0, 0.05))], 0.01), ["colour"]),
        (v2.Compose([v2.RandomHorizontalFlip(), v2.RandomSolarize(0)]), ["x", "colour"]),
    ],
    ids=range(17),
)  # fmt: skip
def test_u07_a_transform_is_known_by_what_it_does_to_marked_points(transform: Any, moved: str | list[str]) -> None:
    assert axes_moved(transform) == frozenset(moved)


@pytest.mark.parametrize(
    "transform",
    [
        RandomColourJitter(1.0, 0.3, 0.3, 0.4), v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.2)], 0.5),
        v2.ColorJitter(hue=0.05), v2.RandomZoomOut(p=1.0), v2.RandomAutocontrast(1.0), v2.GaussianBlur(9),
    ],
    ids=range(6),
)  # fmt: skip
def test_a_colour_keeps_its_name_under_small_changes(transform: Any) -> None:
    assert "colour" not in axes_moved(transform)


def test_u07_crops_of_torchvision_are_known_too() -> None:
    for transform in (v2.RandomCrop(200), v2.RandomResizedCrop(64), v2.CenterCrop(100), v2.RandomIoUCrop(),
                      v2.RandomApply([v2.RandomCrop(100)], 0.01), v2.RandomCrop(900)):  # fmt: skip
        assert cuts(transform), transform
    for transform in (v2.RandomHorizontalFlip(), v2.ColorJitter(0.2), v2.Resize((40, 40)), v2.RandomZoomOut()):
        assert not cuts(transform), transform


def test_u07_sentences_speak_of_the_axes_that_they_name() -> None:
    assert axes_of("The Leftmost cup") == axes_of("le verre à gauche") == {"x"}
    assert axes_of("a cup under the lamp") == {"y"}
    assert axes_of("the top right cup") == {"x", "y"}
    assert axes_of("a bright, leafy plant beside the cup") == frozenset()
    assert axes_of("blueberries on a blackboard in a greenhouse") == frozenset()
    for text in ("the Reddish cup", "die rote Tasse", "la tasse verte", "la taza roja", "la tazza rossa",
                 "a xícara vermelha", "红色的杯子", "a cup of the same colour"):  # fmt: skip
        assert axes_of(text) == {"colour"}


def captioned(folder: Path, caption: str, augment: list[Any]) -> CaptionData:
    path, images = write_coco(folder, "train", annotations=[{"bbox": [2, 5, 6, 8]}])
    written = json.loads(path.read_text())
    image, (box, *_) = written["images"][0], written["annotations"]
    begin = caption.index("cup")
    (folder / "captions.json").write_text(json.dumps({
        "images": [{"id": 1, "original_id": image["id"], "file_name": image["file_name"], "caption": caption,
                    "width": image["width"], "height": image["height"],
                    "tokens_positive_eval": [[[begin, begin + 3]]]}],
        "categories": written["categories"],
        "annotations": [{"id": 1, "image_id": 1, "category_id": box["category_id"], "area": 48, "iscrowd": 0,
                         "bbox": box["bbox"], "tokens_positive": [[begin, begin + 3]]}],
    }))  # fmt: skip
    data = CaptionData(
        root=folder, train={"images": str(images.relative_to(folder)), "annotations": str(path.relative_to(folder))},
        val=None, captions={"train": "captions.json"}, tokenizer={"kind": "words", "size": 100}, size=64,
        mean=[0.5] * 3, std=[0.25] * 3, stride=16, seed=0, batch_size=1, augment=augment,
    )  # fmt: skip
    data.setup("fit")
    return data


def seen(data: CaptionData) -> set[float]:
    dataset = data.dataset("train", training=True)
    return {round(float(dataset[(0, epoch)][1].boxes[0, 0]), 3) for epoch in range(12)}


def test_u07_a_picture_whose_sentence_says_left_is_not_flipped_any_other_is(tmp_path: Path) -> None:
    flip = [v2.RandomHorizontalFlip(), Mirrored()]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    said = captioned(tmp_path / "a", "the left cup", flip)
    assert len(seen(said)) == 1
    assert any("left out for 1 of" in notice for notice in said.report.notices)
    assert len(seen(captioned(tmp_path / "b", "the red cup", flip))) == 2
    with pytest.raises(ConfigError, match="holds RandomCrop, which adds or cuts off objects"):
        captioned(tmp_path / "a", "the left cup", [v2.RandomCrop(20)])


def pixels(data: CaptionData) -> torch.Tensor:
    image: torch.Tensor = data.dataset("train", training=True)[(0, 0)][0]
    return image


def test_a_picture_whose_caption_names_a_colour_keeps_its_colours_any_other_does_not(tmp_path: Path) -> None:
    plain = pixels(captioned(tmp_path, "the red cup", []))
    inverted = [RandomInversion(1.0)]
    red = captioned(tmp_path, "the red cup", inverted)
    assert pixels(red).equal(plain)
    assert any("RandomInversion: it is left out for 1 of 2 images" in notice for notice in red.report.notices)
    assert not pixels(captioned(tmp_path, "the left cup", inverted)).equal(plain)


def test_u08_spans_are_of_the_text_as_typed() -> None:
    text = "İSTANBUL'da İki Straße ΟΔΟΣ cup"
    assert len(lowered(text)) == len(text)
    assert lowered("ΟΔΟΣ Straße") == "ΟΔΟΣ Straße".lower()
    for tokenizer in (WordTokenizer.train([lowered(text)]), CharacterTokenizer.train([lowered(text)]),
                      SubwordTokenizer.train([lowered(text)] * 3, size=300)):  # fmt: skip
        encoding = tokenizer.encode(lowered(text))
        assert encoding.spans[-1][1] == len(text)
        assert "cup".endswith(text[slice(*encoding.spans[-1])])
