"""`detr-mini train -m`: one table and one picture of all runs, whatever became of single ones."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import pytest

from detr_mini import cli
from detr_mini.experiments.record import start_or_go_on
from sweep_parts import pretend, settings, sweep_json

WORDS = ["seed=0,1,2", "optim.optimizer.lr=0.01,0.02", "trainer.max_steps=3"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Trainings are pretended; the settings of each."""
    seen: list[dict[str, str]] = []

    def call(name: str, words: list[str]) -> None:
        seen.append(settings(words))
        pretend(words)

    monkeypatch.setattr(cli, "_call", call)
    return seen


def train_many(folder: Path, *words: str) -> int:
    return cli.main(["train", "-m", f"sweep.folder={folder}", *words])


def test_every_value_meets_every_other_and_seeds_are_one_choice(
    calls: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_many(tmp_path / "all", *WORDS) == 0
    assert len(calls) == 6
    assert len({said["run_folder"] for said in calls}) == 6
    written = sweep_json(tmp_path / "all")
    best, other = written["choices"]
    assert (best["recipe"], other["recipe"]) == ("optim.optimizer.lr=0.01", "optim.optimizer.lr=0.02")
    reached = [run["metrics"]["AP"] for run in written["runs"] if run["choice"] == best["recipe"]]
    assert best["AP"] == pytest.approx(statistics.fmean(reached))
    assert best["AP_spread"] == pytest.approx(statistics.stdev(reached))
    assert (best["AP_least"], best["AP_most"]) == (min(reached), max(reached))
    assert best["train_seconds"] == pytest.approx(120)
    shown = capsys.readouterr().out
    for part in ("0.410 ± 0.010", "0.400-0.420", "2.0 ± 1.0", "1.0-3.0", "the best val/AP first"):
        assert part in shown
    assert (tmp_path / "all" / "sweep.png").stat().st_size > 0
    assert "0.410 ± 0.010" in (tmp_path / "all" / "sweep.txt").read_text()


def test_a_measure_that_no_run_has_is_reported_and_the_usual_one_orders_the_table(
    calls: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, measure in enumerate(("val/ap", "split")):
        assert train_many(tmp_path / str(number), "seed=0,1", f"sweep.measure={measure}") == 0
        shown = capsys.readouterr().out
        assert f"no run has the number '{measure}' in its metrics.json; set sweep.measure to another key" in shown
        assert "the best val/AP first" in shown
        assert (tmp_path / str(number) / "sweep.png").stat().st_size > 0


def test_the_least_loss_comes_first(calls: list[dict[str, str]], tmp_path: Path) -> None:
    assert train_many(tmp_path / "all", "optim.optimizer.lr=0.02,0.01,0.04", "sweep.measure=val/loss") == 0
    losses = [choice["val/loss"] for choice in sweep_json(tmp_path / "all")["choices"]]
    assert losses == sorted(losses)
    assert len(set(losses)) == 3


def test_a_metric_equal_to_the_measure_is_shown_once(
    calls: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sweep_parts.TEST_GAP", 0.0)  # without a test set AP is AP on val
    assert train_many(tmp_path / "all", "optim.optimizer.lr=0.01,0.02") == 0
    (head,) = [line.split() for line in capsys.readouterr().out.splitlines() if "recipe" in line]
    assert head == ["recipe", "runs", "val/AP", "AP50", "minutes"]
    assert all(choice["AP"] == choice["val/AP"] for choice in sweep_json(tmp_path / "all")["choices"])


def test_an_existing_sweep_continues_and_finished_runs_stay(calls: list[dict[str, str]], tmp_path: Path) -> None:
    assert train_many(tmp_path / "all", "seed=0,1", "trainer.max_steps=3") == 0
    assert train_many(tmp_path / "all", "seed=0,1,2,3", "trainer.max_steps=3") == 0
    assert [said["seed"] for said in calls] == ["0", "1", "2", "3"]
    (choice,) = sweep_json(tmp_path / "all")["choices"]
    assert choice["recipe"] == "train"


def test_a_run_with_a_checkpoint_resumes_from_it(calls: list[dict[str, str]], tmp_path: Path) -> None:
    assert train_many(tmp_path / "all", "seed=0,1") == 0
    for run in sweep_json(tmp_path / "all")["runs"]:
        (tmp_path / "all" / run["folder"] / "metrics.json").unlink()
    stood = tmp_path / "all" / "1_seed-1"
    (stood / "last.ckpt").write_text("")
    seen = []
    cli_call = cli._call
    cli._call = lambda name, words: seen.append(settings(words))  # type: ignore[assignment]
    try:
        train_many(tmp_path / "all", "seed=0,1")
    finally:
        cli._call = cli_call
    assert [sorted(said) for said in seen] == [["run_folder", "seed"], ["resume"]]
    assert seen[1]["resume"] == str(stood)


def test_other_settings_in_the_same_sweep_are_another_choice(calls: list[dict[str, str]], tmp_path: Path) -> None:
    assert train_many(tmp_path / "all", "seed=0,1", "trainer.max_steps=3") == 0
    assert train_many(tmp_path / "all", "seed=0,1", "trainer.max_steps=4") == 0
    names = {choice["recipe"] for choice in sweep_json(tmp_path / "all")["choices"]}
    assert names == {"trainer.max_steps=3", "trainer.max_steps=4"}


def test_a_failed_run_is_listed_with_its_reason_and_the_others_continue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(name: str, words: list[str]) -> None:
        if "seed=1" in words:
            raise cli.ConfigError("this one is wrong")
        pretend(words)

    monkeypatch.setattr(cli, "_call", call)
    assert train_many(tmp_path / "all", *WORDS) == 2
    said = capsys.readouterr()
    assert "seed=1 optim.optimizer.lr=0.01: failed. this one is wrong" in said.out.replace("\n", " ")
    assert "2 of 6 runs failed" in said.err
    assert "2 of 3" in said.out
    assert [run["state"] for run in sweep_json(tmp_path / "all")["runs"]].count("done") == 4


def test_a_fault_of_ours_in_one_run_is_exit_1_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(name: str, words: list[str]) -> None:
        if "seed=0" in words:
            raise RuntimeError("a bug")
        pretend(words)

    monkeypatch.setattr(cli, "_call", call)
    assert train_many(tmp_path / "all", "seed=0,1") == 1
    assert "Traceback" in capsys.readouterr().err
    states = {run["folder"]: (run["state"], run["sentence"]) for run in sweep_json(tmp_path / "all")["runs"]}
    assert states["0_seed-0"] == ("broken", "RuntimeError: a bug")
    assert states["1_seed-1"][0] == "done"


def test_ctrl_c_ends_with_the_table_of_what_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(name: str, words: list[str]) -> None:
        if "seed=1" in words:
            raise KeyboardInterrupt
        pretend(words)

    monkeypatch.setattr(cli, "_call", call)
    assert train_many(tmp_path / "all", "seed=0,1,2") == 130
    assert [run["state"] for run in sweep_json(tmp_path / "all")["runs"]] == ["done", "stopped", "waiting"]
    assert "seed=1: stopped" in capsys.readouterr().out
    assert (tmp_path / "all" / "sweep.png").is_file()


def test_each_run_has_the_words_of_a_training_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []
    monkeypatch.setattr(cli, "_call", lambda name, words: seen.append(cli.sys.argv[1:]))
    quoted = str(tmp_path / "a b'c").replace("'", "\\'")
    cli.main(["train", "-m", f"sweep.folder='{quoted}'", "seed=0,1"])
    run = f"run_folder='{quoted}/0_seed-0'"
    assert seen[0] == ["train", "seed=0", run], "further processes start this run, not the sweep"
    assert cli.compose("train", seen[0][1:]).run_folder == str(tmp_path / "a b'c" / "0_seed-0")


@pytest.mark.parametrize("name", ["a b'c", r"back\slash", r"back\\slashes", r"at the end\\", r"\'", "a,b", "[a]"])
def test_a_run_folder_of_any_name_reaches_the_run_as_it_is(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    assert cli.compose("train", start_or_go_on(["seed=0"], folder)).run_folder == str(folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "seed=0,1", "data.sise=3"], "data.sise does not exist"),
        (["-m", "seed=0,1", "run_folder=x"], "set sweep.folder=FOLDER"),
        (["-m", "resume=x,y"], "set sweep.folder=FOLDER"),
        (["-m", "seed=0,1", "sweep=jobli"], "did you mean 'joblib'?"),
        (
            ["-m", "seed=0,1", "sweep=joblib", "sweep.jobs=0"],
            "sweep.jobs is 0; it must be a whole number greater than 0",
        ),
        (["-m", "seed=0,1", "sweep.job=2"], "sweep.job does not exist"),
        (["-m", "seed=0,1", "sweep.folder=full"], "is not empty and not a sweep"),
        (["-m", "optim.clip=interval(1,2)"], "add sweep=optuna"),
        (["-m", "optim=glob(*)"], "the sweep cannot be read"),
        (["-m", "sweep=optuna", "seed=0,1"], "nothing is searched"),
        (["-m", "sweep=optuna", "optim.clip=interval(5,1)"], "cannot be searched"),
        (["-m", "sweep=submitit", "sweep.cluster=abacus", "seed=0,1"], "submitit refuses these settings"),
        (["sweep=joblib", "seed=0"], "add -m"),
    ],
)
def test_a_bad_setting_is_refused_before_anything_is_made(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.txt").write_text("")
    assert cli.main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert os.listdir(tmp_path) == ["full"]


@pytest.mark.parametrize("extra", ["joblib", "optuna", "submitit"])
def test_a_missing_extra_is_a_sentence(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.sys.modules, extra, None)
    assert train_many(tmp_path / "all", f"sweep={extra}", "optim.clip=1,2") == 2
    said = capsys.readouterr().err
    assert f"the package {extra} is not installed; install it with: pip install " in said
    assert "[sweep]'" in said
    assert not (tmp_path / "all").exists()


def test_other_verbs_run_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def call(name: str, words: list[str]) -> None:
        seen.append((name, words, cli.sys.argv[1:]))
        if "seed=1" in words:
            raise cli.ConfigError("this one is wrong")

    monkeypatch.setattr(cli, "_call", call)
    assert cli.main(["evaluate", "-m", "seed=0,1,2", "batch_size=1,5"]) == 2
    assert [words for _, words, _ in seen] == [[f"seed={s}", f"batch_size={b}"] for s in (0, 1, 2) for b in (1, 5)]
    assert seen[0][2] == ["evaluate", "seed=0", "batch_size=1"]
    assert "2 of 6 runs failed" in capsys.readouterr().err
