"""`data shard`, and the verbs that take shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data_parts import write_voc, write_yolo
from detector_parts import BACKBONE, MODEL, checkpoint_of
from detr_mini.cli import main
from detr_mini.errors import DataError
from detr_mini.inference.sources import find_pictures
from detr_mini.models.build import build_model
from detr_mini.structures import Categories
from shards_parts import write_kinds, write_shards


def test_a_folder_becomes_shards_and_the_report_says_how_to_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = write_kinds(tmp_path / "photos"), tmp_path / "shards"
    assert main(["data", "shard", f"data.root={root}", f"output={output}", "shard_megabytes=0.01"]) == 0
    shown = capsys.readouterr().out
    assert "train: 5 images in 4 shards, 0.0 MiB" in shown
    assert f"train from them with 'data=litdata data.root={output}'" in shown
    assert main(["data", "shard", f"data.root={root}", f"output={output}"]) == 2
    assert f"the output {output} exists already; choose a new folder" in capsys.readouterr().err
    assert main(["data", "check", "data=litdata", f"data.root={output}"]) == 0
    assert "all 7 files are as they were written" in capsys.readouterr().out
    (output / "train" / "chunk-0-1.bin").write_bytes(b"")
    assert main(["data", "check", f"data.root={output}"]) == 2
    error = capsys.readouterr().err
    assert "chunk-0-1.bin has 0 bytes" in error and "(1 of 7 files have a fault); copy them again, or" in error
    assert f"'detr-mini data shard data.root={root} output={output}' writes it again" in error


def test_other_formats_become_shards_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yolo(tmp_path / "yolo", {"train": {"a": ["0 0.5 0.5 0.2 0.2"]}, "val": {"b": ["1 0.5 0.5 0.2 0.2"]}})
    write_voc(tmp_path / "voc", {"train": {"a": [("bolt", (2, 3, 20, 30))], "b": []}})
    for root in (tmp_path / "yolo", tmp_path / "voc"):
        output = root.with_name(f"{root.name}_shards")
        assert main(["data", "shard", f"data.root={root}", f"output={output}"]) == 0
        assert main(["data", "stats", "data=litdata", f"data.root={output}", f"output={output}_1"]) == 0
        assert main(["data", "stats", f"data.root={root}", f"output={output}_2"]) == 0
        one, other = (json.loads(Path(f"{output}_{k}", "stats.json").read_text()) for k in (1, 2))
        assert one == other and "train" in one
    capsys.readouterr()


@pytest.mark.parametrize("verb", ["split", "subset", "convert"])
def test_verbs_that_copy_image_files_name_the_folder_that_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    root, output = write_kinds(tmp_path / "photos"), tmp_path / "shards"
    write_shards(root, output)
    more = {"subset": ["count=2"], "convert": ["to=voc"]}.get(verb, [])
    assert main(["data", verb, f"data.root={output}", f"output={tmp_path / 'new'}", *more]) == 2
    error = capsys.readouterr().err
    assert "holds shards, and this task needs each image as a file of its own; give it the dataset" in error
    assert f"(data.root={root})" in error
    assert "Traceback" not in error and not (tmp_path / "new").exists()
    with pytest.raises(DataError, match="holds shards, and this task needs each image as a file"):
        find_pictures(str(output))


def test_an_evaluation_on_shards_has_the_numbers_of_the_folder(scenes_root: Path, tmp_path: Path) -> None:
    known = json.loads((scenes_root / "annotations" / "train.json").read_text())["categories"]
    categories = Categories(tuple(c["id"] for c in known), tuple(c["name"] for c in known))
    torch.manual_seed(0)
    checkpoint = tmp_path / "best.ckpt"
    torch.save(checkpoint_of(build_model(MODEL, BACKBONE, len(categories)), categories), checkpoint)
    write_shards(scenes_root, tmp_path / "made", splits=["train", "val"])
    found = {}
    for name, root in (("folder", scenes_root), ("shards", tmp_path / "made")):
        words = [f"checkpoint={checkpoint}", "data=litdata", "data.format=auto", f"data.root={root}", "data.workers=0"]
        assert main(["evaluate", *words, f"output={tmp_path / name}", "resamples=0", "report=true"]) == 0
        found[name] = json.loads((tmp_path / name / "predictions.json").read_text())
        assert (tmp_path / name / "gallery.png").stat().st_size > 1000
        found[f"{name}_metrics"] = json.loads((tmp_path / name / "metrics.json").read_text())
    assert found["folder"] == found["shards"] and len(found["folder"])
    assert found["folder_metrics"]["AP"] == found["shards_metrics"]["AP"]
