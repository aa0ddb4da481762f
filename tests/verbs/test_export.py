"""An exported file detects like its checkpoint, packaged weights load by name, and foreign files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from detector_parts import checkpoint_of, untrained
from detr_mini import load
from detr_mini.boxes import box_iou
from detr_mini.cli import main
from detr_mini.errors import CheckpointError, UserError
from detr_mini.pretrained import packaged as box
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.pretrained.published_detr import write_published


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save(checkpoint_of(untrained(), data={"root": "somewhere"}, optim={"lr": 1}), tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


def test_an_exported_file_is_half_the_size_and_detects_as_its_checkpoint(saved: Path, tmp_path: Path) -> None:
    small = tmp_path / "new" / "small.safetensors"
    assert main(["export", f"checkpoint={saved}", f"output={small}"]) == 0
    weights = read_checkpoint(saved)["averaged"]["weights"]
    assert small.stat().st_size < sum(t.numel() for t in weights.values()) * 2 + 60_000
    whole, half = (load(file).detect(picture(), threshold=0.0) for file in (saved, small))
    torch.testing.assert_close(half.scores, whole.scores, atol=5e-3, rtol=0)
    assert box_iou(half.boxes, whole.boxes).amax(1).min() > 0.95
    assert set(read_checkpoint(small)["config"]) == {"model", "backbone"}  # nothing of where it was trained


@pytest.mark.parametrize(
    ("name", "reason"),
    [("model.safetensors", "there already"), ("model.pth", "format=detr holds a DETR on a ResNet")],
)
def test_weights_of_others_are_not_replaced(
    saved: Path, tmp_path: Path, name: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / name)
    before = (tmp_path / name).read_bytes()
    assert main(["export", f"checkpoint={saved}", f"output={tmp_path / name}"]) == 2
    assert reason in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before
    own = tmp_path / "own.safetensors"
    for _ in range(2):  # an earlier export is replaced
        assert main(["export", f"checkpoint={saved}", f"output={own}"]) == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_detr_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "detr.pth").write_bytes(b"of others")
    parts = {"model": {"_target_": "detr_mini.models.DETR"}, "backbone": {"_target_": "detr_mini.vision.resnet"}}
    with pytest.raises(UserError, match=r"detr\.pth is there already; choose another output"):
        write_published({"config": parts}, {}, tmp_path / "detr.pth")
    assert (tmp_path / "detr.pth").read_bytes() == b"of others"


def test_packaged_weights_load_by_name_unless_a_file_has_that_name(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box, "FOLDER", tmp_path / "files")
    box.FOLDER.mkdir()
    checkpoint = read_checkpoint(saved)
    box.pack(checkpoint, checkpoint["averaged"]["weights"], box.FOLDER / "bolts.safetensors")
    monkeypatch.chdir(tmp_path)
    assert len(load("bolts").detect(picture(), threshold=0.0)) > 0
    with pytest.raises(CheckpointError, match="no checkpoint boltz; did you mean 'bolts'"):
        load("boltz")
    Path("bolts").mkdir()
    with pytest.raises(CheckpointError, match=r"holds neither best\.ckpt nor last\.ckpt"):
        load("bolts")


def test_a_foreign_or_damaged_file_is_refused_in_one_sentence(saved: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(3)}, str(foreign))
    with pytest.raises(CheckpointError, match="is no file of 'detr-mini export'"):
        load(foreign)
    small = tmp_path / "small.safetensors"
    box.pack(read_checkpoint(saved), read_checkpoint(saved)["averaged"]["weights"], small)
    small.write_bytes(small.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is no file of 'detr-mini export'"):
        load(small)


def test_export_names_the_settings_it_needs(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", f"checkpoint={saved}"]) == 2
    assert "output is not set; add output=..." in capsys.readouterr().err
    assert main(["export", f"checkpoint={saved}", "output=weights.pt"]) == 2
    assert "format=onnx writes a file that ends in .onnx" in capsys.readouterr().err
    assert main(["export", f"checkpoint={saved}", "output=weights.pt", "format=safetensors"]) == 2
    assert "use output=weights.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("name", box.names())
def test_packaged_weights_are_small_and_load(name: str) -> None:
    file = box.boxed(name)
    assert file is not None
    assert file.stat().st_size <= 12e6
    assert len(load(name).categories) > 0


def test_data_scene_prints_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "scene", "seed=5", f"output={tmp_path / 'a' / 'scene.png'}"]) == 0
    said = capsys.readouterr().out
    assert Image.open(tmp_path / "a" / "scene.png").size == (128, 128)
    assert "relation" in said
    assert "detr-mini predict checkpoint=shapes_captions source=" in said
    assert main(["data", "scene", f"output={tmp_path / 'scene.jpg'}"]) == 2
    assert "is not a PNG file" in capsys.readouterr().err
