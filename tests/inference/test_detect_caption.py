"""Sentences given to a trained detector: phrases as typed, one sentence for each mistake."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector_parts import BACKBONE, CATEGORIES, GROUNDED, IMAGE, untrained
from detr_mini.config.compose import compose
from detr_mini.errors import CheckpointError, ConfigError, UserError
from detr_mini.inference.detector import Detector, load
from detr_mini.text.tokenizers import SubwordTokenizer, WordTokenizer, lowered
from detr_mini.verbs.predict import predict

TOKENIZER = SubwordTokenizer.train(["the small bolt left of the lampshade holder"] * 3, size=300)


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("run") / "best.ckpt", TOKENIZER)


def written(path: Path, tokenizer: SubwordTokenizer | WordTokenizer) -> Path:
    """A checkpoint of an untrained detector that reads with `tokenizer`."""
    model = untrained(GROUNDED, 0.1, vocabulary=len(tokenizer))
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    config = {"model": GROUNDED, "backbone": BACKBONE}
    torch.save(
        {"state_dict": weights, "categories": CATEGORIES.to_dict(), "image": IMAGE, "config": config,
         "tokeniser": tokenizer.state(), "threshold": 0.2}, path,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def detector(checkpoint: Path) -> Detector:
    return load(checkpoint)


def test_G_03_labels_are_whole_phrases_as_typed(detector: Detector) -> None:
    caption = "The Lampshade holder left of the  SMALL bolt"
    words = set(caption.split())
    found = detector.detect(picture(), caption, threshold=0.0)
    assert found.phrases is not None
    for phrase in found.phrases:
        assert all(part in words or caption.count(part) for part in phrase.split())
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert (found.boxes[:, 2:] <= torch.tensor([60.0, 40])).all()


def test_u08_phrases_are_words_as_typed_where_small_letters_are_longer(tmp_path: Path) -> None:
    caption = "İki kırmızı İstanbul Bardağı left of the cup"  # a small İ has two characters
    detector = load(written(tmp_path / "best.ckpt", WordTokenizer.train([lowered(caption)])))
    found = detector.detect(picture(), caption, threshold=0.0)
    assert found.phrases and any(found.phrases)
    assert {word for phrase in found.phrases for word in phrase.split()} <= {*caption.split()}


def test_a_list_of_images_gives_each_its_own_answer_whatever_the_batch(detector: Detector) -> None:
    images = [picture(), Image.new("RGB", (64, 64), "red"), picture().rotate(90, expand=True)]
    together = detector.detect(images, "the small bolt", threshold=0.0, batch_size=3)
    for image, found in zip(images, together, strict=True):
        alone = detector.detect(image, "the small bolt", threshold=0.0)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-4, rtol=1e-4)
        assert found.phrases == alone.phrases


def test_the_threshold_is_the_one_val_found_best_unless_given(detector: Detector) -> None:
    assert detector.threshold == 0.2
    found = detector.detect(picture(), "the small bolt")
    everything = detector.detect(picture(), "the small bolt", threshold=0.0)
    assert len(found) == int((everything.scores >= 0.2).sum())


def test_without_a_caption_it_detects_its_categories(detector: Detector) -> None:
    found = detector.detect(picture(), threshold=0.0)
    assert found.phrases is None
    assert len(found) > 0


@pytest.mark.parametrize("caption", ["", "  \n"])
def test_an_empty_caption_is_refused(detector: Detector, caption: str) -> None:
    with pytest.raises(UserError, match="the caption is empty; say what to look for"):
        detector.detect(picture(), caption)


def test_a_caption_that_is_too_long_is_refused_and_not_cut(detector: Detector) -> None:
    with pytest.raises(UserError, match=r"the caption has \d+ tokens, the model takes 40; shorten it"):
        detector.detect(picture(), "the small bolt " * 20)


def test_another_script_and_emoji_are_read_without_harm(detector: Detector) -> None:
    for caption in ("красная звезда", "北京 ★", "👩\u200d👧 bolt"):
        found = detector.detect(picture(), caption, threshold=0.0)
        assert found.scores.isfinite().all()


def test_a_damaged_tokeniser_is_named(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "tokeniser": {"kind": "words", "words": 3}}, tmp_path / "best.ckpt")
    with pytest.raises((CheckpointError, UserError), match=r"the tokeniser in .*best\.ckpt is damaged"):
        load(tmp_path / "best.ckpt")


def test_predict_takes_a_caption_and_writes_its_phrases(checkpoint: Path, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    said = [f"checkpoint={checkpoint}", f"source={tmp_path / 'a.png'}", f"output={tmp_path / 'out'}", "threshold=0"]
    output = predict(compose("predict", [*said, "caption=the small bolt"]))
    found = json.loads((output / "results" / "a.png.json").read_text())["detections"]
    expected = load(checkpoint).detect(picture(), "the small bolt", threshold=0)
    assert [record["phrase"] for record in found] == list(expected.phrases or ())
    with pytest.raises(ConfigError, match="leave one of the two out"):
        predict(compose("predict", [*said, "caption=the small bolt", "explain=true"]))


def test_a_word_that_training_never_showed_is_warned_of_with_what_may_be_meant(checkpoint: Path) -> None:
    words = WordTokenizer.train(["the small bolt left of the lampshade holder", "large nut"], size=300)
    detector = load(checkpoint)
    detector.tokenizer = words
    with pytest.warns(UserWarning, match="unknown word 'blot', treated as .UNK.; did you mean 'bolt'"):
        detector.detect(picture(), "the small blot left of the holder")
    with pytest.warns(UserWarning, match="unknown word 'zebra', treated as .UNK."):
        detector.detect(picture(), ["nut", "zebra"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.detect(picture(), "The small BOLT")
