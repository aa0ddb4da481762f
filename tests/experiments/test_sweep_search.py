"""Optuna's sweep: what is searched, how it goes on, and what the study is told."""

from __future__ import annotations

import json
import os
import signal
import statistics
from pathlib import Path

import pytest

from detr_mini import cli
from detr_mini.errors import ConfigError
from detr_mini.experiments.process import Processes
from detr_mini.experiments.search import space
from sweep_parts import pretend, settings, sweep_json

optuna = pytest.importorskip("optuna", reason="comes with the extra 'sweep'")

RATE = "optim.optimizer.lr=tag(log, interval(0.001, 0.1))"


def search(folder: Path, *words: str) -> int:
    return cli.main(["train", "-m", "sweep=optuna", f"sweep.folder={folder}", *words])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Processes only pretend to train; the settings of each."""
    seen: list[dict[str, str]] = []

    def train(self: Processes, words: list[str], log: Path) -> tuple[int, str]:
        seen.append(settings(words))
        return pretend(words)

    monkeypatch.setattr(Processes, "train", train)
    return seen


def study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder / 'study.db'}")


def test_hydras_ranges_become_optunas() -> None:
    found = space(
        ["a=interval(0.5,2)", "b=int(interval(1,5))", "c=tag(log, interval(1e-4,1))", "d=x,y", "e=range(1,8,2)",
         "f=[1,2],[3]", "g=3", "seed=0,1"]
    )  # fmt: skip
    dist = optuna.distributions
    assert found.searched == {
        "a": dist.FloatDistribution(0.5, 2), "b": dist.IntDistribution(1, 5),
        "c": dist.FloatDistribution(1e-4, 1, log=True), "d": dist.CategoricalDistribution(["x", "y"]),
        "e": dist.IntDistribution(1, 7, step=2), "f": dist.CategoricalDistribution(["[1,2]", "[3]"]),
    }  # fmt: skip
    assert found.fixed == ["g=3"]
    assert found.seeds == ["seed=0", "seed=1"]


def test_a_search_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is searched"):
        space(["seed=0,1", "optim=muon"])


def test_the_study_gets_the_mean_over_the_seeds_on_val(trained: list[dict[str, str]], tmp_path: Path) -> None:
    assert search(tmp_path / "s", "sweep.trials=4", "sweep.random=2", RATE, "seed=0,1") == 0
    assert len(trained) == 8
    runs = sweep_json(tmp_path / "s")["runs"]
    for trial in study(tmp_path / "s").trials:
        own = f"optim.optimizer.lr={trial.params['optim.optimizer.lr']:.6g}"
        reached = [run["metrics"]["val/AP"] for run in runs if own in run["words"]]
        assert len(reached) == 2
        assert trial.value == pytest.approx(statistics.fmean(reached))
    assert (tmp_path / "s" / "sweep.png").stat().st_size > 0


def test_the_best_choice_stands_first(
    trained: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(tmp_path / "s", "sweep.trials=8", "sweep.random=4", RATE) == 0
    written = sweep_json(tmp_path / "s")
    best = max(written["choices"], key=lambda row: row["val/AP"])
    assert written["choices"][0] == best
    assert best["val/AP"] == pytest.approx(study(tmp_path / "s").best_value)


def test_a_search_continues_with_more_trials_but_only_with_the_same_words(
    trained: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(tmp_path / "s", "sweep.trials=3", RATE) == 0
    assert search(tmp_path / "s", "sweep.trials=5", RATE) == 0
    assert len(trained) == 5
    assert len({said["optim.optimizer.lr"] for said in trained}) == 5, "the second call draws other values"
    assert search(tmp_path / "s", "sweep.trials=6", RATE, "optim.clip=3") == 2
    assert "has other settings" in capsys.readouterr().err
    assert len(trained) == 5


def test_a_search_continues_only_with_the_same_measure(
    trained: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(tmp_path / "s", "sweep.trials=2", RATE) == 0
    assert search(tmp_path / "s", "sweep.trials=4", RATE, "sweep.measure=val/loss") == 2
    assert "has sweep.measure=val/AP; use the same ones to continue it" in capsys.readouterr().err
    assert search(tmp_path / "s", "sweep.trials=4", RATE, "sweep.measure=val/AP") == 0
    assert len(trained) == 4


def test_values_that_were_tried_are_not_trained_again(trained: list[dict[str, str]], tmp_path: Path) -> None:
    assert search(tmp_path / "s", "sweep.trials=6", "sweep.jobs=2", "optim.optimizer.lr=0.01,0.02") == 0
    assert len(trained) <= 2
    assert len(study(tmp_path / "s").trials) == 6


def test_a_failed_trial_is_listed_and_the_search_continues(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def train(self: Processes, words: list[str], log: Path) -> tuple[int, str]:
        diverges = float(settings(words)["optim.optimizer.lr"]) > 0.01
        return (2, "a loss is not finite") if diverges else pretend(words)

    monkeypatch.setattr(Processes, "train", train)
    assert search(tmp_path / "s", "sweep.trials=8", "sweep.random=8", RATE) == 2
    states = [trial.state for trial in study(tmp_path / "s").trials]
    assert set(states) == {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL}
    failed = [run["sentence"] for run in sweep_json(tmp_path / "s")["runs"] if run["state"] == "failed"]
    assert failed == ["a loss is not finite"] * states.count(optuna.trial.TrialState.FAIL)


def test_a_trial_that_was_interrupted_is_tried_again_with_its_values(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rates = []

    def train(self: Processes, words: list[str], log: Path) -> tuple[int, str]:
        rates.append(settings(words)["optim.optimizer.lr"])
        if len(rates) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            return 130, "stopped"
        return pretend(words)

    monkeypatch.setattr(Processes, "train", train)
    assert search(tmp_path / "s", "sweep.trials=3", RATE) == 130
    assert [run["state"] for run in sweep_json(tmp_path / "s")["runs"]] == ["done", "stopped"]
    assert search(tmp_path / "s", "sweep.trials=3", RATE) == 0
    assert len(rates) == 4
    assert rates[1] == rates[2]


def test_a_search_does_not_continue_a_sweep_that_was_not_a_search(
    trained: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["train", "-m", "sweep=joblib", f"sweep.folder={tmp_path / 's'}", "trainer.max_steps=1", "seed=0,0,1"]
    assert cli.main(sweep) == 0
    assert sorted(said["seed"] for said in trained) == ["0", "1"], "a value said twice is trained once"
    assert search(tmp_path / "s", "sweep.trials=2", RATE) == 2
    assert "holds a sweep that was not a search; choose another sweep.folder" in capsys.readouterr().err
    assert len(trained) == 2


def test_a_loss_is_made_small_and_ap_large(
    trained: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ringed: list[float] = []
    monkeypatch.setattr(
        "detr_mini.experiments.search.search_results",
        lambda settings, values, best, *about: ringed.append(values[best]),
    )
    for measure, direction in (("val/loss", "MINIMIZE"), ("AP50", "MAXIMIZE")):
        folder = tmp_path / direction
        assert search(folder, RATE, f"sweep.measure={measure}", "sweep.trials=3") == 0
        assert study(folder).direction.name == direction
        assert study(folder).best_value == sweep_json(folder)["choices"][0][measure] == ringed[-1]


def test_a_measure_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(self: Processes, words: list[str], log: Path) -> tuple[int, str]:
        folder = Path(settings(words)["run_folder"])
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps({"AP": 0.5, "split": "test", "val/AP": None}))
        return 0, ""

    monkeypatch.setattr(Processes, "train", train)
    assert search(tmp_path / "s", RATE) == 2
    assert "the search needs 'val/AP'" in capsys.readouterr().err
    assert search(tmp_path / "t", RATE, "sweep.measure=AP", "sweep.trials=2") == 0
