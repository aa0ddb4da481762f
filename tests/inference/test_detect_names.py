"""Names given to a trained detector, and a split measured with its categories' names as a caption."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from detector_parts import CATEGORIES, GROUNDED, IMAGE, checkpoint_of, untrained
from detr_mini.config.compose import compose
from detr_mini.errors import ConfigError, UserError
from detr_mini.evaluation.metrics.coco import evaluate as coco_metric
from detr_mini.inference.detector import Detector, load
from detr_mini.models import open_vocabulary as by_names
from detr_mini.text.names import passes
from detr_mini.text.tokenizers import WordTokenizer
from detr_mini.verbs.evaluate import evaluate
from detr_mini.verbs.predict import predict

TOKENIZER = WordTokenizer.train(["bolt. nut. washer."])
DATA = {
    "_target_": "detr_mini.captions.CaptionData", "captions": {"train": "categories"}, "size": 64,
    "tokenizer": {"kind": "words", "size": 99}, "val": {"images": "val", "annotations": "annotations/val.json"},
    "train": {"images": "train", "annotations": "annotations/train.json"}, "eval_batch_size": 2,
}  # fmt: skip
PICTURE = Image.linear_gradient("L").convert("RGB").resize((60, 40))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = untrained(GROUNDED, 0.1, vocabulary=len(TOKENIZER))
    path = tmp_path_factory.mktemp("outputs") / "best.ckpt"
    content = checkpoint_of(model, data=DATA)
    content["config"]["model"] = GROUNDED
    torch.save({**content, "tokeniser": TOKENIZER.state(), "threshold": 0.3}, path)
    return path


@pytest.fixture(scope="module")
def named(checkpoint: Path) -> Detector:
    return load(checkpoint)


def test_a_list_of_names_and_the_same_as_a_caption_give_the_same(named: Detector) -> None:
    one = named.detect(PICTURE, ["Nut", "bolt"], threshold=0.0)
    other = named.detect(PICTURE, "Nut. bolt.", threshold=0.0)
    torch.testing.assert_close(one.scores, other.scores)
    assert one.names == other.names == one.phrases
    assert set(one.names) == {"Nut", "bolt"}
    assert one.categories.names == ("Nut", "bolt")
    assert (one.scores[:-1] >= one.scores[1:]).all()


def test_captions_are_made_once_for_names_that_are_asked_for_again_and_only_the_last_are_kept(
    named: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, ...]] = []

    def noted(names: tuple[str, ...], *given: Any) -> Any:
        made.append(names)
        return passes(names, *given)

    monkeypatch.setattr(by_names, "passes", noted)
    for names in (["nut", "bolt"], ["nut", "bolt"], ["washer", "bolt"], ["nut", "bolt"]):
        named.detect(PICTURE, names)
    assert made == [("nut", "bolt"), ("washer", "bolt"), ("nut", "bolt")]


def test_a_batch_of_images_changes_nothing_and_the_limit_holds(named: Detector) -> None:
    pictures = [PICTURE, PICTURE.rotate(90, expand=True), Image.new("RGB", (64, 64), "red")]
    together = named.detect(pictures, ["nut", "bolt", "washer"], threshold=0.0, limit=5)
    for picture, found in zip(pictures, together, strict=True):
        alone = named.detect(picture, ["nut", "bolt", "washer"], threshold=0.0, limit=5)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-4, rtol=1e-4)
        assert len(found) == 5
    least = named.detect(PICTURE, ["nut"])
    assert len(least) == int((named.detect(PICTURE, ["nut"], threshold=0.0).scores >= 0.3).sum())


def test_names_in_several_passes_are_scored_as_in_a_pass_of_their_own(
    named: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, names = named.by_names(), [" ".join(words) for words in product(("bolt", "nut", "washer"), repeat=3)]
    with torch.no_grad():
        output = model(torch.rand(2, 3, 64, 64))
        together = model.logits(output, names)
        groups = passes(names, TOKENIZER, named.model.text.max_tokens)
        assert len(groups) > 2
        apart = torch.cat([model.logits(output, [names[i] for i in group]) for group in groups], -1)
        torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
        assert together.flatten(0, 1).std(1).min() > 0, "names that differ are distinguished"
        monkeypatch.setattr(by_names, "AT_ONCE", 2)
        torch.testing.assert_close(model.logits(output, names), together, atol=1e-4, rtol=1e-4)


def test_names_in_other_scripts_and_unknown_words_are_read_without_harm(named: Detector) -> None:
    for names in (["болт", "гайка"], ["北京", "★"], ["\N{WOMAN}\u200d\N{GIRL}", "İ"]):
        found = named.detect(PICTURE, names, threshold=0.0)
        assert found.scores.isfinite().all()
        assert set(found.names) == set(names)


def test_bad_lists_and_detectors_without_captions_are_refused(named: Detector) -> None:
    with pytest.raises(UserError, match="the list of names is empty"):
        named.detect(PICTURE, [])
    with pytest.raises(UserError, match="'nut' is given twice"):
        named.detect(PICTURE, "bolt. nut. nut.")
    plain = Detector(untrained(), CATEGORIES, IMAGE)
    with pytest.raises(UserError, match="trained without captions"):
        plain.detect(PICTURE, ["nut"])
    with pytest.raises(UserError, match="trained without captions"):
        plain.by_names()


def test_predict_takes_names_and_writes_what_their_ids_mean(checkpoint: Path, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.png")
    said = [f"checkpoint={checkpoint}", f"source={tmp_path / 'a.png'}", f"output={tmp_path / 'out'}", "threshold=0"]
    output = predict(compose("predict", [*said, "caption=[washer,Nut]"]))
    categories = json.loads((output / "images.json").read_text())["categories"]
    assert categories == [{"id": 1, "name": "washer"}, {"id": 2, "name": "Nut"}]
    found = json.loads((output / "results" / "a.png.json").read_text())["detections"]
    names = {1: "washer", 2: "Nut"}
    assert found
    assert all(record["phrase"] == record["name"] == names[record["category_id"]] for record in found)


def test_a_split_is_measured_with_names_as_a_caption(
    checkpoint: Path, named: Detector, make_coco: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    boxes = [{"bbox": [2, 2, 20, 20], "category_id": 3}, {"bbox": [20, 8, 30, 30], "category_id": 7}]
    categories = CATEGORIES.records()
    make_coco(annotations=boxes, categories=categories)
    path, folder = make_coco("val", annotations=boxes, categories=categories)
    said = [f"checkpoint={checkpoint}", f"data.root={tmp_path}", "gallery=0"]
    output = evaluate(compose("evaluate", [*said, "by=names", f"output={tmp_path / 'names'}"]))
    metrics, records = (json.loads((output / f"{name}.json").read_text()) for name in ("metrics", "predictions"))
    assert metrics["by"] == "names"
    assert metrics["AP"] == coco_metric(json.loads(path.read_text()), records, CATEGORIES)["AP"]
    found = named.detect(folder / "1.png", list(CATEGORIES.names), threshold=0.0)
    own = [(r["category_id"], r["score"]) for r in records if r["image_id"] == 1]
    ids = dict(zip(CATEGORIES.names, CATEGORIES.ids, strict=True))
    assert [i for i, _ in own] == [ids[name] for name in found.names]
    assert [score for _, score in own] == pytest.approx(found.scores.tolist(), abs=1e-4)
    head = evaluate(compose("evaluate", [*said, f"output={tmp_path / 'classes'}"]))
    assert json.loads((head / "predictions.json").read_text()) != records
    with pytest.raises(ConfigError, match="by is 'name'; choose one of classes, names"):
        evaluate(compose("evaluate", [*said, "by=name"]))


def test_data_with_captions_of_names_are_measured_without_any_training_file_being_read(
    checkpoint: Path, make_coco: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    boxes = [{"bbox": [2, 2, 20, 20], "category_id": 3}]
    make_coco("val", annotations=boxes, categories=CATEGORIES.records())
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["data"]["captions"] = {"train": "categories", "val": "categories"}
    torch.save(content, tmp_path / "asked.ckpt")
    said = [f"checkpoint={tmp_path / 'asked.ckpt'}", f"data.root={tmp_path}", "gallery=0"]
    output = evaluate(compose("evaluate", [*said, f"output={tmp_path / 'out'}"]))
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["grounding/threshold"] == 0.3
    assert metrics["grounding/captions"] == 2
    assert 0 <= metrics["grounding/accuracy/names"] <= 1
