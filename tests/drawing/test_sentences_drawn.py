"""Captions on their pictures: words and boxes of a phrase in one colour, nothing cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detr_mini.drawing import caption_cards
from detr_mini.drawing.boxes import colour_of
from detr_mini.drawing.caption_cards import WIDTH, CaptionCard, draw_caption, draw_captions
from detr_mini.phrases import Caption, Phrase


def a_card(text: str, *phrases: Phrase) -> CaptionCard:
    image = torch.full((3, 120, 160), 90, dtype=torch.uint8)
    boxes = torch.tensor([[10.0, 10, 60, 60], [80, 20, 150, 110]])
    return CaptionCard(image, boxes, Caption(text, "relation", phrases), "a.png")


def colours(picture: Image.Image, rows: slice) -> set[tuple[int, ...]]:
    pixels = np.asarray(picture)[rows]
    return set(map(tuple, np.unique(pixels.reshape(-1, 3), axis=0).tolist()))


def test_a_phrase_has_the_colour_of_its_boxes() -> None:
    card = draw_caption(
        a_card("the dog left of the cat", Phrase(((4, 7),), (0,), True), Phrase(((20, 23),), (1,), False))
    )
    picture, words = slice(0, 300), slice(310, card.height)
    for phrase in (0, 1):
        assert colour_of(phrase) in colours(card, picture)
        assert colour_of(phrase) in colours(card, words)


def test_what_is_absent_has_words_in_colour_and_no_box() -> None:
    card = draw_caption(a_card("the cow", Phrase(((4, 7),), (), True)))
    assert colour_of(0) not in colours(card, slice(0, 300))
    assert colour_of(0) in colours(card, slice(310, card.height))


def test_a_long_caption_makes_the_card_higher_not_wider() -> None:
    short, long = draw_caption(a_card("a dog")), draw_caption(a_card("a dog and a very small cat " * 8))
    assert short.width == long.width == WIDTH
    assert long.height > short.height + 60


def test_a_sheet_holds_every_card(tmp_path: Path) -> None:
    draw_captions([a_card("a dog", Phrase(((2, 5),), (0,), True))] * 5, tmp_path / "sheet.png", "Five")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * WIDTH and sheet.height > 2 * draw_caption(a_card("a dog")).height
    with pytest.raises(ValueError, match="no caption"):
        draw_captions([], tmp_path / "none.png", "None")


def test_a_card_is_drawn_before_the_next_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = list[str]()

    def cards() -> Iterator[CaptionCard]:
        for _ in range(3):
            order.append("made")
            yield a_card("a dog")

    def drawn(card: CaptionCard) -> Image.Image:
        order.append("drawn")
        return draw_caption(card)

    monkeypatch.setattr(caption_cards, "draw_caption", drawn)
    draw_captions(cards(), tmp_path / "sheet.png", "Three")
    assert order == ["made", "drawn"] * 3
