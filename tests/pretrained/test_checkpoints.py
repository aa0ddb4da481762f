"""Reading checkpoints: ours come back, anything else is refused in one sentence."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from detr_mini.errors import CheckpointError
from detr_mini.pretrained.checkpoints import averaged_weights, check_categories, check_knows, read_checkpoint
from detr_mini.structures import Categories

BOLTS = Categories((1, 2), ("bolt", "nut"))


def content() -> dict[str, Any]:
    return {
        "state_dict": {"model.weight": torch.ones(64, 64), "criterion.scale": torch.ones(1)},
        "averaged": {"weights": {"weight": torch.zeros(64, 64)}, "updates": 3},
        "categories": BOLTS.to_dict(),
        "image": {"size": 128, "shorter_side": None, "mean": [0.5] * 3, "std": [0.25] * 3},
        "config": {},
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(content(), tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


def test_a_checkpoint_comes_back(file: Path) -> None:
    assert torch.equal(read_checkpoint(str(file))["state_dict"]["model.weight"], torch.ones(64, 64))


def test_a_run_folder_stands_for_its_best_checkpoint(file: Path) -> None:
    torch.save({**content(), "config": {"name": "last"}}, file.parent / "last.ckpt")
    assert read_checkpoint(file.parent)["config"] == {}
    file.unlink()
    assert read_checkpoint(file.parent)["config"] == {"name": "last"}


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "there is no checkpoint" in refusal(tmp_path / "nothing.ckpt")


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    assert "neither best.ckpt nor last.ckpt" in refusal(tmp_path)


def test_an_exported_program_is_named_as_one(tmp_path: Path) -> None:
    for name in ("x.onnx", "x.pt2", "folder/model.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"program")
        path = tmp_path / name
        assert "is an exported program" in refusal(path if path.suffix != ".xml" else path.parent)


@pytest.mark.parametrize("share", [0.2, 0.9, 0.99])
def test_a_file_that_is_cut_off_is_refused(file: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    assert "cut off" in refusal(file)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").touch()
    assert "empty" in refusal(tmp_path / "x.ckpt")


@pytest.mark.parametrize("foreign", [{"model": {"w": torch.ones(1)}}, [1, 2], torch.ones(2)])
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, foreign: object) -> None:
    torch.save(foreign, tmp_path / "x.pth")
    said = refusal(tmp_path / "x.pth")
    assert "no checkpoint of detr-mini" in said or "it holds w; give a file of DETR" in said


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_text("weights: none")
    assert "no checkpoint of detr-mini" in refusal(tmp_path / "x.ckpt")


class Payload:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_file_that_holds_code_is_refused_and_nothing_runs(tmp_path: Path, writer: str) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "x.ckpt"
    if writer == "torch":
        torch.save({**content(), "config": Payload(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({**content(), "config": Payload(mark)}))
    refusal(path)
    assert not mark.exists()


def test_averaged_weights_come_first_and_plain_ones_stand_in() -> None:
    checkpoint = content()
    assert averaged_weights(checkpoint)["weight"].sum() == 0
    for none in (None, {"weights": {}, "updates": 0}):
        plain = averaged_weights({**checkpoint, "averaged": none})
        assert list(plain) == ["weight"]
        assert plain["weight"].sum() == 64 * 64


def test_the_same_names_fit_whatever_their_ids() -> None:
    check_categories(BOLTS, Categories((5, 3), ("bolt", "nut")))


def test_other_categories_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"does not know 'washer'; the data lack its 'nut'"):
        check_categories(BOLTS, Categories((1, 2), ("bolt", "washer")))


def test_objects_of_unknown_categories_are_named_and_a_part_of_the_known_is_enough() -> None:
    check_knows(BOLTS.names, ["nut"])
    with pytest.raises(CheckpointError, match="objects of 'washer'"):
        check_knows(BOLTS.names, ["nut", "washer"])
