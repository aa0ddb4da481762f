"""The data verbs, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_parts import write_voc, write_yolo
from detr_mini.cli import main
from detr_mini.formats.discover import Source

BOXES = [("bolt", (2, 3, 30, 39)), ("nut", (33, 5, 60, 36))]


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    images = {f"{k:02d}": [(name, tuple(v + k / 100 for v in corners)) for name, corners in BOXES] for k in range(10)}
    return write_voc(tmp_path / "set", {"train": images, "val": {"v": BOXES}})


def test_a_dataset_is_checked_fixed_converted_cut_and_split(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"data.root={voc}"
    assert main(["data", "check", root]) == 0
    assert "11 images, 22 boxes in train, val, no fault found" in " ".join(capsys.readouterr().out.split())
    path = voc / "Annotations" / "v.xml"
    path.write_text(path.read_text().replace("<xmax>60<", "<xmax>90<"))
    assert main(["data", "check", root, "fix=true", f"report={tmp_path / 'report.json'}"]) == 0
    shown = capsys.readouterr().out
    assert "box past the edge: cut at the edge" in shown
    assert json.loads((tmp_path / "report.json").read_text())["counts"] == {"box past the edge": 1}
    fixed = f"data.root={tmp_path / 'set-fixed'}"
    assert main(["data", "check", fixed]) == 0
    assert "no fault found" in " ".join(capsys.readouterr().out.split())
    assert main(["data", "convert", fixed, "to=coco", f"output={tmp_path / 'coco'}"]) == 0
    assert main(["data", "subset", f"data.root={tmp_path / 'coco'}", "count=4", f"output={tmp_path / 'part'}"]) == 0
    assert "train 4 images, 8 boxes; val 1 images, 2 boxes" in capsys.readouterr().out
    assert main(["data", "split", fixed, "all=true", "val=0.3", f"output={tmp_path / 'split'}"]) == 0
    assert "train 8 images" in capsys.readouterr().out
    assert main(["data", "stats", fixed, f"output={tmp_path / 'stats'}"]) == 0
    assert (tmp_path / "stats" / "stats.png").is_file()


def test_each_format_can_be_named_instead_of_detected(voc: Path, tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo", {"train": {"a": ["0 0.5 0.5 0.2 0.2"]}})
    (tmp_path / "yolo" / "data.yaml").rename(tmp_path / "yolo" / "names.yaml")
    words = "{images: images/train, labels: labels/train, names: names.yaml}"
    assert main(["data", "check", "data=voc", f"data.root={voc}"]) == 0
    assert main(["data", "check", "data=yolo", f"data.root={tmp_path / 'yolo'}", f"data.train={words}"]) == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["check", "data.root=gone"], "there is no folder gone"),
        (["check", "fx=true"], "fx does not exist; did you mean 'fix'"),
        (["check", "output=x"], "add fix=true"),
        (["convert", "to=cocoo", "output=x"], "to is 'cocoo'; did you mean 'coco'"),
        (["convert", "to=voc", "output=x"], "in the form voc already"),
        (["subset", "output=x", "categories=[bolts]"], "there is no category 'bolts'; did you mean 'bolt'"),
        (["subset", "output=x", "count=11"], "a subset of 11 images is asked for, but there are 10"),
        (["split", "output=x"], "is split already"),
        (["chekc"], "choose one of"),
    ],
)
def test_a_mistake_gives_one_sentence_and_exit_status_2(
    voc: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    root = [] if any(word.startswith("data.root") for word in words) else [f"data.root={voc}"]
    assert main(["data", *words, *(root if len(words) > 1 else [])]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_check_lists_the_faults_of_a_dataset_that_cannot_be_read(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (voc / "Annotations" / "00.xml").write_text("<annotation>")
    assert main(["data", "check", f"data.root={voc}"]) == 0
    assert "broken annotation file" in capsys.readouterr().out
    assert main(["data", "convert", f"data.root={voc}", "to=coco", "output=x"]) == 2
    assert "is not whole XML" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["check", "fix=true", "output=there"], "the output there exists already"),
        (["check", "fix=true", "output=file/new"], "cannot be written: "),
        (["check", "report=file/r.json"], "report=file/r.json cannot be written (File exists)"),
        (["check", "report=there"], "report=there is a folder; give the name of a JSON file"),
        (["check", "output=x"], "add fix=true"),
        (["convert", "to=coco", "output=there"], "the output there exists already"),
        (["subset", "count=1", "output=there"], "the output there exists already"),
        (["split", "all=true", "output=there"], "the output there exists already"),
        (["shard", "output=there"], "the output there exists already"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str],
    sentence: str,
) -> None:  # fmt: skip
    def read(*_: object, **__: object) -> None:
        raise AssertionError("the dataset is read")

    monkeypatch.setattr("detr_mini.verbs.data_check.check", read)
    monkeypatch.setattr(Source, "trees", read)
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("file").write_text("")
    assert main(["data", words[0], f"data.root={voc}", *words[1:]]) == 2
    assert sentence in capsys.readouterr().err


def test_the_fixed_copy_of_the_current_folder_lies_beside_it(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(voc)
    assert main(["data", "check", "data.root=.", "fix=true"]) == 0
    assert (tmp_path / "set-fixed" / "Annotations" / "v.xml").is_file()
    assert not [path for path in voc.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("form", ["coco", "voc", "yolo", "folder"])
def test_evaluate_takes_each_format(form: str) -> None:
    from detr_mini.config.compose import compose

    config = compose("evaluate", ["checkpoint=x", f"data={form}", "data.root=y"])
    assert config.data.format == ("auto" if form == "folder" else form)
