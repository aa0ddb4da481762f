"""`benchmark datasets`: one recipe on every dataset, whatever becomes of single ones; it goes on where it stands."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from detr_mini import cli
from detr_mini.config.compose import compose
from detr_mini.errors import UserError
from detr_mini.experiments.process import Processes
from detr_mini.scenes.shapes import ensure_scenes
from run_parts import write_run
from sweep_parts import settings
from training_parts import SMALL

OVERRIDES = ["data=folder", "data.size=64", "data.batch_size=4", *SMALL, "trainer.max_steps=1",
             "trainer.precision=32-true", "trainer.progress=false", "logger=csv", "data.hold_out=0.25"]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets of a few images; read only."""
    root = tmp_path_factory.mktemp("made")
    for seed, name in enumerate(("apples", "pears")):
        ensure_scenes(root / name, train=8, val=4, test=3, seed=seed, size=64, processes=1)
    return root


@pytest.fixture
def sets(made: Path, tmp_path: Path) -> Path:
    """A copy of them that may be changed."""
    shutil.copytree(made, tmp_path / "sets")
    return tmp_path / "sets"


def pretend(words: Sequence[str]) -> tuple[int, str]:
    """Leave the run folder of a training that finds everything; how it ended."""
    said = settings(words)
    folder = Path(said.get("resume") or said["run_folder"])
    root = OmegaConf.load(folder / "config.yaml").data.root if "resume" in said else said["data.root"]
    split = "val" if "resume" in said or said.get("data.test") == "null" else "test"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        write_run(folder, Path(root), 0.1, int(said.get("seed", 0)), split)
    except UserError as error:
        return 2, str(error)
    (folder / "last.ckpt").touch()
    return 0, ""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words of every training, each only pretended."""
    calls: list[list[str]] = []

    def train(self: Processes, words: Sequence[str], log: Path) -> tuple[int, str]:
        calls.append(list(words))
        return pretend(words)

    monkeypatch.setattr(Processes, "train", train)
    return calls


def benchmark(root: Path, folder: Path, *words: str) -> int:
    plain = ["minutes=null", "experiment=null", f"overrides=[{','.join(OVERRIDES)}]"]
    return cli.main(["benchmark", "datasets", f"root={root}", f"folder={folder}", *plain, *words])


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "datasets.json").read_text())


def broken_copy(root: Path, name: str) -> None:
    """A dataset whose val images are missing."""
    shutil.copytree(root / "apples", root / name)
    for file in (root / name / "val").iterdir():
        file.unlink()


def test_every_dataset_has_a_run_and_a_row_and_a_broken_one_does_not_end_the_others(
    sets: Path, tmp_path: Path, trained: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    broken_copy(sets, "lemons")
    (sets / "notes").mkdir()
    folder = tmp_path / "out"
    assert benchmark(sets, folder) == 2
    said = capsys.readouterr()
    assert "1 of 3 trainings failed: lemons/seed0" in said.err
    assert f"Repeat the command with folder={folder} to try them again" in said.err
    assert re.search(r"^notes is left out: .*looks like no dataset", said.out, re.MULTILINE)
    assert [line.partition(": ")[0] for line in said.out.splitlines() if re.search(r"^\[.*: (AP|failed)", line)] == [
        "[1/3] apples/seed0", "[2/3] lemons/seed0", "[3/3] pears/seed0"]  # fmt: skip
    content = written(folder)
    assert [row["set"] for row in content["sets"]] == ["apples", "pears"]
    assert list(content["left_out"]) == ["notes"]
    broken = content["runs"][1]
    assert (broken["folder"], broken["state"]) == ("lemons/seed0", "failed")
    assert "000000.png" in broken["sentence"]
    for row in content["sets"]:
        metrics = json.loads((folder / row["set"] / "seed0" / "metrics.json").read_text())
        assert (row["AP"], row["AP50"]) == pytest.approx((metrics["AP"], metrics["AP50"]))
        assert (row["seeds"], row["images"], row["size"]) == (1, 4, 64)
        assert (row["nms_AP"], row["nms_AP50"]) == pytest.approx((0, 0), abs=0.02), "each object was found once"
    assert content["mean"]["AP50"] == pytest.approx(sum(row["AP50"] for row in content["sets"]) / 2)
    table = (folder / "datasets.md").read_text()
    assert table.count("\n| ") == 5, "head, line, two datasets, their mean"
    assert "AP50 +NMS" in table and "lemons/seed0: failed." in table
    with Image.open(folder / "datasets.png") as picture:
        assert min(picture.size) > 200


def test_choosing_on_val_never_looks_at_test(sets: Path, tmp_path: Path, trained: list[list[str]]) -> None:
    shutil.rmtree(sets / "pears")
    assert benchmark(sets, tmp_path / "out") == 0
    assert compose("train", trained[0]).data.test is None
    assert written(tmp_path / "out")["runs"][0]["split"] == "val"


def test_test_is_measured_where_it_is_asked_for_and_a_dataset_without_it_is_not_trained(
    sets: Path, tmp_path: Path, trained: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (sets / "apples" / "annotations" / "test.json").unlink()
    assert benchmark(sets, tmp_path / "out", "split=test") == 2
    first, second = written(tmp_path / "out")["runs"]
    assert (first["state"], second["state"], second["split"], second["images"]) == ("failed", "done", "test", 3)
    assert f"there is no test split in {sets / 'apples'}" in first["sentence"]
    assert len(trained) == 1


def test_a_benchmark_continues_where_it_stopped(
    sets: Path, tmp_path: Path, trained: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert benchmark(sets, folder) == 0
    (folder / "pears" / "seed0" / "metrics.json").unlink()  # as if interrupted after its last checkpoint
    kept = (folder / "apples" / "seed0" / "metrics.json").read_bytes()
    trained.clear()
    capsys.readouterr()
    assert benchmark(sets, folder, "seeds=[1,0]", "sets=[pears]") == 0
    assert [words[-1].split("=")[0] for words in trained] == ["run_folder", "resume"]
    assert trained[1] == [f"resume={folder / 'pears' / 'seed0'}"]
    assert (folder / "apples" / "seed0" / "metrics.json").read_bytes() == kept
    assert "apples/seed0, finished before: AP" in capsys.readouterr().out
    rows = {row["set"]: row["seeds"] for row in written(folder)["sets"]}
    assert rows == {"pears": 2, "apples": 1}, "what earlier calls have trained stays in the table"
    assert re.search(r"\| pears \| 2 \| 0\.\d{3} ± 0\.\d{3} ", (folder / "datasets.md").read_text())


def test_a_failed_dataset_is_tried_again(sets: Path, tmp_path: Path, trained: list[list[str]]) -> None:
    shutil.rmtree(sets / "pears")
    broken_copy(sets, "lemons")
    assert benchmark(sets, tmp_path / "out") == 2
    shutil.copytree(sets / "apples" / "val", sets / "lemons" / "val", dirs_exist_ok=True)
    trained.clear()
    assert benchmark(sets, tmp_path / "out") == 0
    assert len(trained) == 1
    assert [run["state"] for run in written(tmp_path / "out")["runs"]] == ["done", "done"]


@pytest.mark.parametrize("word", ["minutes=3", "split=test", "experiment=quickstart", "overrides=[data.size=32]"])
def test_a_folder_of_another_recipe_is_not_continued(
    word: str, made: Path, tmp_path: Path, trained: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"root": str(made), "sets": None, "experiment": None, "seeds": [0], "minutes": None, "split": "val",
                "overrides": OVERRIDES, "folder": str(tmp_path)}  # fmt: skip
    OmegaConf.save(OmegaConf.create(other), tmp_path / "config.yaml")
    assert benchmark(made, tmp_path, word) == 2
    error = capsys.readouterr().err
    assert f"were trained with {word.partition('=')[0]}=" in error
    assert "give another folder=FOLDER" in error
    assert not trained


def test_ctrl_c_ends_with_the_table_of_what_is_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(self: Processes, words: Sequence[str], log: Path) -> tuple[int, str]:
        return pretend(words) if "apples" in words[0] else (130, "stopped")

    monkeypatch.setattr(Processes, "train", train)
    assert benchmark(made, tmp_path / "out") == 130
    content = written(tmp_path / "out")
    assert [run["state"] for run in content["runs"]] == ["done", "stopped"]
    assert [row["set"] for row in content["sets"]] == ["apples"]
    assert "pears/seed0: stopped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["root=empty"], "empty holds no folder with a dataset; give each dataset a folder of its own"),
        (["root=nowhere"], "there is no folder"),
        (["sets=[plums]"], "sets names 'plums', which is not a folder below"),
        (["sets=[../made]"], "sets names '../made', which is not a folder below"),
        (["sets=[]"], "sets is empty"),
        (["split=train"], "split is 'train'; choose one of val, test"),
        (["seeds=[]"], "seeds is []"),
        (["seeds=[first]"], "seeds is ['first']; it must be one or more whole numbers"),
        (["seeds=[-1]"], "seeds[0] is -1; it must be a whole number from 0"),
        (["minutes=0"], "minutes is 0"),
        (["overrides=[seed=3]"], "overrides has seed=3; seed is decided by"),
        (["overrides=[data.sise=3]"], "data.sise does not exist; did you mean 'data.size'?"),
        (["experiment=finetun"], "did you mean 'finetune'?"),
        (["folder=full"], "not the folder of a benchmark"),
        (["set=[apples]"], "set does not exist; did you mean 'sets'?"),
    ],
)
def test_a_bad_setting_is_refused_before_anything_is_trained(
    words: list[str], sentence: str, made: Path, tmp_path: Path, trained: list[list[str]],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.txt").write_text("")
    assert benchmark(made, tmp_path / "out", *words) == 2
    assert sentence in capsys.readouterr().err
    assert not trained
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]


def test_names_that_are_numbers_one_name_and_a_seed_given_twice_are_what_they_seem(
    sets: Path, tmp_path: Path, trained: list[list[str]]
) -> None:
    (sets / "apples").rename(sets / "2024")
    assert benchmark(sets, tmp_path / "a", "sets=[2024]", "seeds=[0,0]", "overrides=null", "split=val") == 0
    assert json.loads((tmp_path / "a" / "datasets.json").read_text())["sets"][0]["seeds"] == 1
    assert benchmark(sets, tmp_path / "b", "sets=pears", "split=val") == 0
    assert len(trained) == 2


def test_a_root_that_is_not_given_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["benchmark", "datasets"]) == 2
    assert "root is not set; add root=... (see 'detr-mini benchmark datasets --help')" in capsys.readouterr().err


@pytest.mark.slow
def test_a_training_is_a_process_of_its_own_and_all_its_figures_are_in_the_row(sets: Path, tmp_path: Path) -> None:
    broken_copy(sets, "lemons")
    assert benchmark(sets, tmp_path / "out", "sets=[lemons,pears]") == 2
    content = written(tmp_path / "out")
    assert [run["state"] for run in content["runs"]] == ["failed", "done"]
    log = (tmp_path / "out" / "lemons" / "seed0.log").read_text()
    assert content["runs"][0]["sentence"] in log
    (row,) = content["sets"]
    run = tmp_path / "out" / "pears" / "seed0"
    metrics = json.loads((run / "metrics.json").read_text())
    for key in ("AP", "AP50", "AP_low", "AP50_high", "doubles", "detections_at_threshold", "images_per_second"):
        assert row[key] == (metrics[key] if metrics[key] is None else pytest.approx(metrics[key])), key
    assert (row["size"], row["queries"], row["steps"], row["seeds"], row["images"]) == (64, 8, 1, 1, 4)
    assert OmegaConf.load(run / "config.yaml").data.test is None
