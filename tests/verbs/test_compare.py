"""`compare` reads run folders and gives a verdict; what cannot be compared gives one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from detr_mini.cli import main
from detr_mini.errors import DataError, UserError
from detr_mini.evaluation.comparison.runs import labels, read_runs
from detr_mini.verbs.compare import compare
from run_parts import write_run


@pytest.fixture(scope="module")
def runs(scenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recipes, two seeds each; one misplaces its boxes."""
    sweep = tmp_path_factory.mktemp("sweep")
    for name, noise, lr in (("good", 0.02, 0.02), ("bad", 0.25, 0.01)):
        for seed in (0, 1):
            write_run(sweep / f"{name}{seed}", scenes_root, noise, seed, lr=lr)
    return sweep


def config(runs: list[Path] | Path, output: Path) -> DictConfig:
    said = str(runs) if isinstance(runs, Path) else [str(run) for run in runs]
    return OmegaConf.create({"runs": said, "output": str(output), "rounds": 300, "level": 0.05, "seed": 0})


def test_two_runs_get_a_verdict_and_its_files(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = compare(config([runs / "bad0", runs / "good0"], tmp_path / "out"))
    content = json.loads((folder / "compare.json").read_text())
    whole = next(row for row in content["numbers"] if row["name"] == "AP")
    assert whole["real"]
    assert whole["difference"] > 0.2
    assert content["comparisons"] == len(content["numbers"])
    for name in ("compare.png", "compare.txt"):
        assert (folder / name).stat().st_size > 0
    assert "Real: AP +" in " ".join(capsys.readouterr().out.split())


def test_a_run_does_not_differ_from_itself(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = compare(config([runs / "good0", runs / "good0"], tmp_path / "out"))
    assert not any(row["real"] for row in json.loads((folder / "compare.json").read_text())["numbers"])
    assert "None is real" in " ".join(capsys.readouterr().out.split())


def test_a_sweep_gives_mean_and_spread_of_each_recipe(runs: Path, tmp_path: Path) -> None:
    folder = compare(config(runs, tmp_path / "out"))
    content = json.loads((folder / "compare.json").read_text())
    assert [row["recipe"] for row in content["recipes"]] == ["optim.lr=0.02", "optim.lr=0.01"]  # the better first
    for row, name in zip(content["recipes"], ("good", "bad"), strict=True):
        values = [json.loads((runs / f"{name}{seed}" / "metrics.json").read_text())["AP"] for seed in (0, 1)]
        assert row["AP"] == pytest.approx(np.mean(values))
        assert row["AP_spread"] == pytest.approx(np.std(values, ddof=1))
    assert len(content["pairs"]) == 6
    real = {
        tuple(sorted((Path(p["first"]).name[:-1], Path(p["second"]).name[:-1]))) for p in content["pairs"] if p["real"]
    }
    assert real == {("bad", "good")}
    assert (folder / "compare.png").stat().st_size > 0


def test_runs_of_different_data_are_refused_in_a_sentence(
    runs: Path, scenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_run(tmp_path / "other", scenes_root, 0.1, split="test")
    with pytest.raises(DataError, match="different data"):
        compare(config([runs / "good0", other], tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert main(["compare", f"runs=[{runs / 'good0'},{other}]", f"output={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("detr-mini: ")
    assert error.count("\n") == 1


def test_the_same_images_with_other_boxes_are_different_data(runs: Path, scenes_root: Path, tmp_path: Path) -> None:
    moved = tmp_path / "scenes"
    shutil.copytree(scenes_root, moved)
    file = moved / "annotations" / "val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] *= 0.5
    file.write_text(json.dumps(content))
    other = write_run(tmp_path / "other", moved, 0.1)
    with pytest.raises(DataError, match="other boxes"):
        compare(config([runs / "good0", other], tmp_path / "out"))


def test_the_same_data_in_another_folder_are_the_same(runs: Path, scenes_root: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes_root, tmp_path / "copy")
    other = write_run(tmp_path / "other", tmp_path / "copy", 0.02, seed=3)
    assert compare(config([runs / "good0", other], tmp_path / "out")).is_dir()


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda run: (run / "predictions.json").unlink(), "no predictions.json"),
        (lambda run: (run / "predictions.json").write_text("[{"), "not valid JSON"),
        (lambda run: (run / "config.yaml").write_text("a: 1"), "no data section"),
        (lambda run: shutil.rmtree(run), "no folder"),
        (lambda run: (run / "metrics.json").unlink(), "no finished run"),
    ],
)
def test_a_folder_that_is_not_a_finished_run_is_named(spoil, part: str, runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "good0", run)
    spoil(run)
    with pytest.raises(UserError, match=part) as caught:
        compare(config([runs / "good1", run], tmp_path / "out"))
    assert str(run) in str(caught.value)


def test_a_single_run_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only run"):
        compare(config([runs / "good0"], tmp_path / "out"))


def test_runs_are_labelled_by_the_classes_they_build_differently(runs: Path) -> None:
    first, second, *_ = read_runs([runs])
    first.config["model"] = {"_target_": "detr_mini.models.MiniDETR", "dim": 64}
    second.config["model"] = {"_target_": "detr_mini.models.DETR", "layers": 3}
    first.config["optim"] = second.config["optim"] = {"lr": 1}
    assert labels([first, second]) == ["model=MiniDETR", "model=DETR"]
