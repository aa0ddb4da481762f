"""`data label`, `data corrections`, `data next` and `data doubt` from the command line, with an untrained detector."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from data_parts import edited, write_coco, write_images
from detector_parts import BACKBONE, MODEL, checkpoint_of, untrained
from detr_mini.cli import main
from detr_mini.formats.convert import WRITTEN
from detr_mini.labelling import folds
from detr_mini.structures import Categories
from training_parts import SMALL


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector that is not shy: its scores are about one half."""
    model = untrained()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("classify.bias"):
                parameter.add_(4)
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    torch.save(checkpoint_of(model), path)
    return path


@pytest.fixture
def new_photos(tmp_path: Path) -> Path:
    """Eight pictures of noise, in two folders, and one that is none."""
    write_images(tmp_path / "new", [f"{'x/' * (k % 2)}{k}.png" for k in range(8)])
    (tmp_path / "new" / "broken.png").write_bytes(b"\x89PNG\r\n")
    return tmp_path / "new"


@pytest.mark.parametrize("form", WRITTEN)
def test_label_writes_a_folder_for_the_tool_and_says_what_was_left_out(
    checkpoint: Path, new_photos: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = [f"checkpoint={checkpoint}", f"source={new_photos}", f"output={output}", f"format={form}", "threshold=0.3"]
    assert main(["data", "label", *words]) == 0
    said = capsys.readouterr().out
    assert "8 pictures" in said and "broken.png" in said
    record = json.loads((output / "prelabels.json").read_text())
    boxes = [box for picture in record["pictures"] for box in picture["boxes"]]
    assert boxes and all(box["score"] >= 0.3 and box["name"] in ("bolt", "nut", "washer") for box in boxes)
    for picture in record["pictures"]:
        for left, top, width, height in (box["bbox"] for box in picture["boxes"]):
            assert left >= 0 and top >= 0 and left + width <= 60.001 and top + height <= 40.001
    assert len(list(output.rglob("*.png"))) == 8
    if form == "label_studio":
        tasks = json.loads((output / "train.json").read_text())
        assert all("annotations" not in task and task["predictions"] for task in tasks)
        assert sum(len(task["predictions"][0]["result"]) for task in tasks) == len(boxes)
        return
    assert main(["data", "corrections", f"prelabels={output}", f"data.root={output}",
                 f"report={tmp_path / 'reports' / 'a.json'}"]) == 0  # fmt: skip
    counts = json.loads((tmp_path / "reports" / "a.json").read_text())["counts"]
    assert counts == {"kept": len(boxes), "moved": 0, "renamed": 0, "added": 0, "removed": 0}


def test_label_takes_the_threshold_of_the_checkpoint(new_photos: Path, tmp_path: Path) -> None:
    torch.save(checkpoint_of(untrained()) | {"operating_point": {"threshold": 0.123}}, tmp_path / "best.ckpt")
    words = [f"checkpoint={tmp_path / 'best.ckpt'}", f"source={new_photos}", f"output={tmp_path / 'out'}"]
    assert main(["data", "label", *words]) == 0
    assert json.loads((tmp_path / "out" / "prelabels.json").read_text())["threshold"] == 0.123


def test_next_chooses_gives_reasons_and_leaves_out_what_is_labelled(
    checkpoint: Path, new_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    shutil.copy(new_photos / "0.png", labelled / "other_name.png")
    words = [f"checkpoint={checkpoint}", f"source={new_photos}", f"labelled={labelled}", "count=3"]
    assert main(["data", "next", *words, f"output={tmp_path / 'a'}", "format=label_studio"]) == 0
    said = capsys.readouterr().out
    assert "1 of 9 pictures are labelled already" in said and "  1. " in said
    listed = json.loads((tmp_path / "a" / "next.json").read_text())["pictures"]
    assert len(listed) == 3 and "0.png" not in [row["file_name"] for row in listed]
    assert all(row["reason"] for row in listed)
    tasks = json.loads((tmp_path / "a" / "train.json").read_text())
    assert [task["data"]["notes"] for task in tasks] == [row["reason"] for row in listed]
    with Image.open(tmp_path / "a" / "contact_sheet.jpg") as sheet:
        assert sheet.width > 1000
    assert main(["data", "next", *words, f"output={tmp_path / 'b'}", "format=label_studio"]) == 0
    again = json.loads((tmp_path / "b" / "next.json").read_text())["pictures"]
    assert again == listed


def test_next_compares_with_the_training_set_of_the_checkpoint_or_says_that_it_is_gone(
    new_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(tmp_path / "old", annotations=[{"bbox": [1, 2, 30, 20]}])
    data = {"_target_": "detr_mini.data.DetectionData", "_convert_": "all", "root": str(tmp_path / "old"),
            "format": "auto", "train": "auto", "val": "auto"}  # fmt: skip
    torch.save(checkpoint_of(untrained(), data=data), tmp_path / "best.ckpt")
    words = [f"checkpoint={tmp_path / 'best.ckpt'}", f"source={new_photos}", "count=2"]
    assert main(["data", "next", *words, f"output={tmp_path / 'a'}"]) == 0
    said = capsys.readouterr().out
    assert "2 pictures of the training set" in said and "farther from the training pictures" in said
    shutil.rmtree(tmp_path / "old")
    assert main(["data", "next", *words, f"output={tmp_path / 'b'}"]) == 0
    assert "the training set cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("held_out", [True, False])
def test_next_proposes_no_picture_of_val_and_compares_with_train_alone(
    tmp_path: Path, held_out: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root, ids = tmp_path / "old", range(1, 7)
    boxes = [{"bbox": [1, 2, 30, 20], "image_id": k} for k in ids]
    splits = {"train": ids} if held_out else {"train": ids[:4], "val": ids[4:]}
    for split, own in splits.items():
        write_coco(root, split, images=[{"id": k} for k in own], annotations=[boxes[k - 1] for k in own])
    write_images(tmp_path / "new", [f"new/{k}.png" for k in range(3)], size=(30, 50))
    for path in root.rglob("*.png"):
        shutil.copy(path, tmp_path / "new" / f"copy_of_{path.name}")
    data = {"_target_": "detr_mini.data.DetectionData", "_convert_": "all", "root": str(root), "format": "auto",
            "train": "auto", "val": "auto", "hold_out": 0.34}  # fmt: skip
    torch.save(checkpoint_of(untrained(), data=data), tmp_path / "best.ckpt")
    words = [f"checkpoint={tmp_path / 'best.ckpt'}", f"source={tmp_path / 'new'}", "count=9"]
    assert main(["data", "next", *words, f"output={tmp_path / 'out'}"]) == 0
    out = capsys.readouterr().out
    assert "4 pictures of the training set" in out and "6 of 9 pictures are labelled already" in out
    listed = json.loads((tmp_path / "out" / "next.json").read_text())["pictures"]
    assert sorted(row["file_name"] for row in listed) == [f"new/{k}.png" for k in range(3)]


def found_by(checkpoint: Path, tmp_path: Path) -> Path:
    """A dataset of two categories."""
    write_coco(
        tmp_path / "set",
        images=[{"id": k} for k in range(1, 7)],
        annotations=[{"bbox": [5, 5, 20, 20], "image_id": k, "category_id": 1 + k % 2} for k in range(1, 7)],
    )
    return tmp_path / "set"


def test_doubt_looks_at_the_images_that_a_training_would_take(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = found_by(checkpoint, tmp_path)
    next(iter(sorted(root.rglob("*.png")))).unlink()
    words = ["doubt", f"data.root={root}", f"checkpoint={checkpoint}", f"output={tmp_path / 'doubts'}"]
    assert "on_missing" in refused(capsys, *words)
    assert main(["data", *words, "data.on_missing=skip"]) == 0
    assert "5 images, 5 labels" in capsys.readouterr().out
    assert main(["data", *words, "data.on_missing=skip", "data.subset={count: 3}"]) == 0
    assert "3 images, 3 labels" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["label_studio", "cvat"])
def test_doubt_with_a_given_detector_writes_a_list_a_sheet_and_a_task(
    checkpoint: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = found_by(checkpoint, tmp_path), tmp_path / "doubts"
    words = [f"data.root={root}", f"checkpoint={checkpoint}", f"output={output}", f"format={form}", "shown=5"]
    for _ in range(2):  # what an earlier run wrote is replaced
        assert main(["data", "doubt", *words]) == 0
    assert "1. 0." in capsys.readouterr().out
    content = json.loads((output / "doubts.json").read_text())
    assert content["labels"] == 6 and len(content["doubts"]) == 5
    scores = [doubt["score"] for doubt in content["doubts"]]
    assert scores == sorted(scores, reverse=True)
    assert (output / "doubts.jpg").stat().st_size > 1000
    first = content["doubts"][0]["file_name"]
    if form == "label_studio":
        tasks = json.loads((output / "task" / "train.json").read_text())
        assert tasks[0]["data"]["image"].endswith(f"train/{first}")
        assert content["doubts"][0]["text"] in tasks[0]["data"]["notes"]
        assert all(len(task["annotations"][0]["result"]) == 1 for task in tasks)
    else:
        text = (output / "task" / "train.xml").read_text()
        assert text.count('source="manual"') == len({doubt["file_name"] for doubt in content["doubts"]})
        assert '<attribute name="doubt">' in text


def test_doubt_trains_a_detector_for_each_fold_and_goes_on_where_it_stopped(
    scenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        f"data.root={scenes_root}", *SMALL, "backbone=convnet", "data.size=64", "data.batch_size=4", "model.queries=8",
        "data.strong_until=1.0", "optim.average=0.9", "optim.warmup_steps=2", "trainer.coarse_grow=false",
        "trainer.max_minutes=null", "trainer.max_steps=2", "trainer.precision=32-true", "trainer.progress=false",
        "logger=csv", "folds=2", f"output={tmp_path / 'out'}", "shown=4",
    ]  # fmt: skip
    assert main(["data", "doubt", *words]) == 0
    said = capsys.readouterr().out
    assert "fold 2 of 2: trained on 8 images, to look at 8" in said
    content = json.loads((tmp_path / "out" / "doubts.json").read_text())
    assert content["images"] == 16
    before = (tmp_path / "out" / "fold-1" / "best.ckpt").stat().st_mtime_ns
    assert main(["data", "doubt", *words]) == 0
    assert (tmp_path / "out" / "fold-1" / "best.ckpt").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "out" / "doubts.json").read_text()) == content


def test_folds_of_other_labels_are_not_used_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[str] = []

    def train(settings: DictConfig) -> None:
        runs.append(Path(settings.run_folder).name)
        Path(settings.run_folder).mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(folds, "train", train)
    monkeypatch.setattr(folds, "load", lambda run: None)
    monkeypatch.setattr(folds, "find_boxes", lambda detector, tree, ids: {})
    root, output = found_by(checkpoint, tmp_path), tmp_path / "doubts"
    words = ["doubt", f"data.root={root}"]
    for _ in range(2):
        assert main(["data", *words, f"output={output}", "folds=2"]) == 0
    assert runs == ["fold-1", "fold-2"] * 2
    capsys.readouterr()
    said = refused(capsys, *words, f"output={output}", "folds=3")
    assert "holds folds of other labels; choose another output" in said
    edited(root / "annotations" / "train.json", lambda content: content["annotations"][0]["bbox"].__setitem__(0, 7))
    said = refused(capsys, *words, f"output={output}", "folds=2")
    assert "holds folds of other labels; choose another output" in said and len(runs) == 4
    assert main(["data", *words, f"output={tmp_path / 'again'}", "folds=2"]) == 0


ODD = "caf\udce9.png"
"""A name whose bytes are not UTF-8."""


@pytest.mark.parametrize("form", WRITTEN)
def test_names_that_are_not_utf8_are_written(checkpoint: Path, tmp_path: Path, form: str) -> None:
    try:
        write_images(tmp_path / "new", [ODD, "a.png"])
    except OSError:
        pytest.skip("this disk takes no such names")
    words = [f"checkpoint={checkpoint}", f"source={tmp_path / 'new'}", f"format={form}"]
    assert main(["data", "label", *words, f"output={tmp_path / 'label'}"]) == 0
    assert main(["data", "next", *words, f"output={tmp_path / 'next'}", "count=2", "labelled=null"]) == 0
    for file in ("label/prelabels.json", "next/prelabels.json", "next/next.json"):
        names = [picture["file_name"] for picture in json.loads((tmp_path / file).read_bytes())["pictures"]]
        assert sorted(names) == ["a.png", ODD]


def test_doubts_about_names_that_are_not_utf8_are_written(checkpoint: Path, tmp_path: Path) -> None:
    try:
        (tmp_path / ODD).touch()
    except OSError:
        pytest.skip("this disk takes no such names")
    box = {"bbox": [5, 5, 20, 20], "image_id": 1}
    write_coco(tmp_path / "set", images=[{"id": 1, "file_name": ODD}], annotations=[box])
    words = [f"data.root={tmp_path / 'set'}", f"checkpoint={checkpoint}", f"output={tmp_path / 'doubts'}"]
    assert main(["data", "doubt", *words]) == 0
    found = json.loads((tmp_path / "doubts" / "doubts.json").read_bytes())["doubts"]
    assert {doubt["file_name"] for doubt in found} == {ODD}


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says that is refused with one sentence."""
    assert main(["data", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    return said


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    checkpoint: Path, new_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def work(*given: object, **how: object) -> None:
        raise AssertionError("the work has begun")

    for name in ("label", "next", "doubt"):
        monkeypatch.setattr(
            f"detr_mini.verbs.data_{name}.find_{'by_checkpoints' if name == 'doubt' else 'pictures'}", work
        )
    (tmp_path / "file").touch()
    given = [f"checkpoint={checkpoint}", f"output={tmp_path / 'file' / 'out'}"]
    for verb in ("label", "next"):
        assert "cannot be written" in refused(capsys, verb, *given, f"source={new_photos}")
    doubt = ["doubt", f"data.root={found_by(checkpoint, tmp_path)}", f"checkpoint={checkpoint}"]
    assert "cannot be written" in refused(capsys, *doubt, given[1])
    assert "no folder that you may write to" in refused(capsys, *doubt, f"output={tmp_path / 'file'}")
    task = tmp_path / "mine" / "task"
    task.mkdir(parents=True)
    assert "was not written by data doubt" in refused(capsys, *doubt, f"output={tmp_path / 'mine'}")
    assert task.is_dir()


def test_bad_input_is_one_sentence(
    checkpoint: Path, new_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [f"checkpoint={checkpoint}", f"source={new_photos}", f"output={tmp_path / 'out'}"]
    assert "did you mean 'cvat'" in refused(capsys, "label", *good, "format=cvatt")
    assert "images is 'move'" in refused(capsys, "label", *good, "images=move")
    assert "source" in refused(capsys, "label", good[0], good[2])
    assert "exists already" in refused(capsys, "label", *good[:2], f"output={tmp_path}")
    assert "count is 0" in refused(capsys, "next", *good, "count=0")
    assert "batch_size is 0" in refused(capsys, "next", *good, "batch_size=0")
    assert "labelled already" in refused(capsys, "next", *good, f"labelled={new_photos}")
    root = found_by(checkpoint, tmp_path)
    doubt = ["doubt", f"data.root={root}", f"output={tmp_path / 'd'}"]
    assert "folds is 1" in refused(capsys, *doubt, "folds=1")
    assert "no split 'test'" in refused(capsys, *doubt, f"checkpoint={checkpoint}", "split=test")
    assert "needs checkpoint=" in refused(capsys, *doubt, "split=val")
    assert "shown is 0" in refused(capsys, *doubt, "shown=0")
    assert "data doubt looks at whole images" in refused(capsys, *doubt, "data.tiles=64")
    assert "there is no" in refused(capsys, "corrections", f"prelabels={root}", f"data.root={root}")
    (root / "prelabels.json").write_text('{"written_by": "detr-mini data label", "names": [], "pictures": []}')
    counted = ["corrections", f"prelabels={root}", f"data.root={root}"]
    assert "is a folder" in refused(capsys, *counted, f"report={tmp_path}")
    assert "cannot be written" in refused(capsys, *counted, f"report={root / 'prelabels.json' / 'a.json'}")
    others = tmp_path / "others.ckpt"
    model = untrained({**MODEL}, 0.05)
    torch.save(checkpoint_of(model, Categories((1, 2, 3), ("cat", "dog", "cow")), backbone=BACKBONE), others)
    assert "which the checkpoint was not trained for" in refused(capsys, *doubt, f"checkpoint={others}")
    assert not (tmp_path / "out").exists()


def test_a_source_without_a_readable_picture_is_one_sentence(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.png").write_bytes(b"no picture")
    words = [f"checkpoint={checkpoint}", f"source={tmp_path / 'new'}", f"output={tmp_path / 'out'}"]
    for verb in ("label", "next"):
        assert "none of 1 pictures can be read" in refused(capsys, verb, *words)
