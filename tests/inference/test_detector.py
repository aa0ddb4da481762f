"""The public face: any kind of image in, boxes in its own pixels out, the same alone and in any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import detr_mini
from detector_parts import CATEGORIES, checkpoint_of, untrained
from detr_mini.errors import CheckpointError, DataError, UserError
from detr_mini.inference.detector import Detector, load
from detr_mini.structures import Detections


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (5, 5, 3), np.uint8))
    return np.asarray(small.resize((width, height)))


def same(a: Detections, b: Detections, tolerance: float = 0.0) -> None:
    assert a.image_size == b.image_size
    assert torch.equal(a.labels, b.labels)
    assert torch.allclose(a.scores, b.scores, atol=tolerance, rtol=0)
    assert torch.allclose(a.boxes, b.boxes, atol=tolerance * max(a.image_size), rtol=0)


def test_every_kind_of_one_image_gives_the_same(detector: Detector, tmp_path: Path) -> None:
    array = picture(90, 70)
    Image.fromarray(array).save(tmp_path / "a.png")
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png"), array, tensor, tensor / 255]
    first, *others = (detector.detect(kind, threshold=0) for kind in kinds)
    assert len(first) == 8 * 3
    assert first.image_size == (70, 90)
    for other in others:
        same(first, other)


def test_a_list_gives_a_list_and_one_image_one(detector: Detector) -> None:
    image = picture(64, 64)
    assert detector.detect([]) == []
    (alone,) = detector.detect([image], threshold=0)
    same(alone, detector.detect(image, threshold=0))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_neighbours_in_the_batch_change_nothing(detector: Detector, batch_size: int) -> None:
    images = [picture(w, h, i) for i, (w, h) in enumerate([(64, 64), (90, 40), (31, 100), (7, 90), (64, 48)])]
    together = detector.detect(images, threshold=0, batch_size=batch_size)
    for image, found in zip(images, together, strict=True):
        alone = detector.detect(image, threshold=0)
        visible = min(len(alone), len(found))
        assert torch.allclose(alone.scores[:visible], found.scores[:visible], atol=1e-4)
        sort = [torch.cat([d.boxes, d.labels[:, None], d.scores[:, None]], 1) for d in (alone, found)]
        assert torch.cdist(*sort).min(1).values.max() < 1e-2


def test_boxes_lie_in_the_picture_and_scores_fall(detector: Detector) -> None:
    found = detector.detect(picture(200, 50), threshold=0)
    assert (found.boxes[:, :2] <= found.boxes[:, 2:]).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([200, 50, 200, 50])).all()
    assert (found.scores.diff() <= 0).all()


def test_the_threshold_is_the_least_score_and_the_limit_the_most_detections(detector: Detector) -> None:
    everything = detector.detect(picture(64, 64), threshold=0)
    middle = float(everything.scores[5])
    assert detector.detect(picture(64, 64), threshold=middle).scores.min() >= middle
    assert len(detector.detect(picture(64, 64), threshold=0, limit=3)) == 3


def test_a_photo_stored_sideways_is_read_upright(detector: Detector, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(90, 40)).save(tmp_path / "a.png", exif=exif)
    from_file = detector.detect(tmp_path / "a.png", threshold=0)
    assert from_file.image_size == (90, 40)
    same(from_file, detector.detect(Image.open(tmp_path / "a.png"), threshold=0))


def test_grey_palette_and_transparent_pictures_work(detector: Detector) -> None:
    for mode in ("L", "P", "RGBA", "CMYK", "1", "LA", "I;16"):
        image = Image.fromarray(picture(64, 48)).convert("L" if mode == "I;16" else mode)
        assert detector.detect(image.convert(mode), threshold=0).image_size == (48, 64)
    assert len(detector.detect(picture(64, 48)[..., 0], threshold=0)) == 24


@pytest.mark.parametrize(
    "nothing",
    [
        np.zeros((4, 4, 5), np.uint8), np.full((4, 4, 3), 9.0), np.zeros((0, 4, 3), np.uint8),
        torch.zeros(4, 4, 3), torch.full((3, 4, 4), 2.0), torch.full((3, 4, 4), torch.nan), "no/such/file.png",
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_image_is_refused(detector: Detector, nothing: object) -> None:
    with pytest.raises(DataError):
        detector.detect(nothing)  # type: ignore[call-overload]


def test_a_caption_needs_a_detector_with_text(detector: Detector) -> None:
    with pytest.raises(UserError, match="without captions"):
        detector.detect(picture(64, 64), caption="the red bolt")


def test_a_device_that_is_not_there_is_refused(checkpoint: Path) -> None:
    for device in ("toaster", "cuda:97"):
        with pytest.raises(UserError, match="cannot be used"):
            load(checkpoint, device=device)


def test_a_checkpoint_brings_averaged_weights_categories_and_size(detector: Detector, checkpoint: Path) -> None:
    for path in (checkpoint, str(checkpoint.parent)):
        again = detr_mini.load(path)
        assert again.categories == CATEGORIES
        same(detector.detect(picture(90, 40), threshold=0), again.detect(picture(90, 40), threshold=0))
        assert not again.model.training


def test_loading_draws_no_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import detr_mini.inference.detector as module

    seen: list[dict] = []

    def build(model: dict, backbone: dict, classes: int, weights: dict, modules: tuple) -> torch.nn.Module:
        seen.append(backbone)
        return untrained()

    monkeypatch.setattr(module, "rebuild", build)
    content = checkpoint_of(untrained())
    content["config"]["backbone"] = {**content["config"]["backbone"], "weights": "published"}
    torch.save(content, tmp_path / "x.ckpt")
    load(tmp_path / "x.ckpt")
    assert seen[0]["weights"] == "none"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"config": {}}, "no part"),
        ({"config": {"model": {"_target_": "os.system"}, "backbone": {"_target_": "os.system"}}}, "os.system"),
        ({"averaged": {"weights": {"nonsense": torch.ones(1)}, "updates": 1}}, "do not fit"),
        ({"categories": {"ids": [1], "names": ["bolt"]}}, "do not fit"),
    ],
)
def test_a_checkpoint_that_does_not_fit_itself_is_refused(tmp_path: Path, change: dict, part: str) -> None:
    torch.save({**checkpoint_of(untrained()), **change}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=part) as caught:
        load(tmp_path / "x.ckpt")
    assert "\n" not in str(caught.value)


def test_gradients_and_modes_are_left_alone(detector: Detector) -> None:
    before: list[Tensor] = [p.clone() for p in detector.model.parameters()]
    detector.detect(picture(64, 64))
    assert torch.is_grad_enabled()
    assert all(torch.equal(a, b) for a, b in zip(before, detector.model.parameters(), strict=True))
