"""The command line: fast help, one sentence for a mistake, exit statuses."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from detr_mini import cli
from detr_mini.config.files import config_folder
from detr_mini.help_texts import HEADINGS, VERBS, help_for, overview


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "detr_mini", *words], capture_output=True, text=True, cwd=cwd, timeout=120
    )


@pytest.mark.parametrize(
    "words", [["--help"], [], ["train", "--help"], ["data", "--help"], ["benchmark", "step", "-h"]]
)
def test_help_imports_the_standard_library_only(words: list[str]) -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from detr_mini.cli import main\n"
        f"try: status = main({words!r})\n"
        "except SystemExit as stop: status = stop.code\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "heavy = new - {'detr_mini', *sys.stdlib_module_names}\n"
        "assert status == 0 and not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "detr-mini" in done.stdout


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_with_an_example_a_config_and_a_file_of_its_own(name: str) -> None:
    text = help_for(name)
    assert f"  detr-mini {name}" in text
    assert (config_folder() / f"{VERBS[name].config}.yaml").is_file()
    function = cli._function(name)
    assert function.__module__ == f"detr_mini.verbs.{VERBS[name].config}"
    assert function.__name__ == VERBS[name].config


def test_the_overview_begins_with_training_and_lists_every_verb_and_heading() -> None:
    lines = overview().splitlines()
    assert lines[2].startswith("  detr-mini train")
    for name in VERBS:
        assert any(line.startswith(f"  {name} ") for line in lines)
    assert all(heading in lines for heading in HEADINGS.values())


def test_help_shows_the_choices_that_a_verb_takes() -> None:
    train, check = help_for("train"), help_for("data check")
    assert "\n  backbone=" in train and "\n  sweep=" in train
    assert "\n  data=" in check and "\n  backbone=" not in check
    assert "\n  sweep=" not in help_for("benchmark step") and "\n  backbone=" in help_for("benchmark step")


def test_help_marks_required_settings_and_hides_hydras_own() -> None:
    text = help_for("predict")
    assert "  checkpoint: (required)" in text
    assert "hydra" not in text and "defaults:\n  -" not in text


VERB_FILES = sorted(path for path in (Path(cli.__file__).parent / "verbs").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("file", VERB_FILES, ids=lambda path: path.stem)
def test_a_verb_is_short_because_the_work_is_elsewhere(file: Path) -> None:
    assert file.stem in {verb.config for verb in VERBS.values()}
    assert len(file.read_text().splitlines()) < 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "did you mean 'train'?"),
        (["data"], "choose one of: data check"),
        (["train", "data.sise=3"], "data.sise does not exist; did you mean 'data.size'?"),
        (["train", "model=mimi"], "did you mean 'mini'?"),
        (["train", "--fast"], "there is no option --fast"),
        (["train", "fast"], "'fast' is not a setting; write key=value"),
        (["predict", "checkpoint=nowhere", "source=nothing"], "there is no file or folder nothing"),
        (["train", "resume=nowhere"], "there is no nowhere/config.yaml"),
    ],
)
def test_a_mistake_is_one_sentence_on_standard_error_and_exit_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("detr-mini: ")
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "a mistake leaves nothing behind"


def _raising(error: BaseException) -> object:
    def call(*_: object) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.ckpt"), 2, "the disk is full: cannot write x.ckpt"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"), 2, "there is no file or folder a/b"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "permission denied: /x"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), 2, "expected a folder, found a file"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), 2, "expected a file, found a folder"),
        (KeyboardInterrupt(), 130, "stopped"),
        (RuntimeError("operator torchvision::nms does not exist"), 2, "torch and torchvision are of different builds"),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), 2, "[timm]'"),
    ],
)
def test_an_error_of_the_machine_is_a_sentence_with_a_remedy(
    error: BaseException, status: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_call", _raising(error))
    assert cli.main(["train"]) == status
    assert said in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_call", _raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["train"])


def test_config_prints_the_settings_without_running(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--config", "experiment=quickstart", "seed=7"]) == 0
    shown = capsys.readouterr().out
    assert "seed: 7" in shown
    assert "max_minutes: 5" in shown


OF_THEIR_OWN = ("labelling_loop", "measure_forgetting", "merge_sets", "plant_label_faults")
"""Scripts that are no verb."""
SCRIPTS = sorted(p for p in (Path(__file__).parents[1] / "scripts").glob("*.py") if p.stem not in OF_THEIR_OWN)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_each_script_calls_its_verb(script: Path) -> None:
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"detr-mini {script.stem}" in done.stdout


def test_the_module_runs_like_the_command() -> None:
    assert run("--version").stdout == f"detr-mini {cli.__version__}\n"


FILES = {name: (config_folder() / f"{verb.config}.yaml").read_text() for name, verb in VERBS.items()}
REQUIRED = [(name, key) for name, text in FILES.items() for key in re.findall(r"^(\w+): \?\?\?", text, re.MULTILINE)]


@pytest.mark.parametrize(("name", "key"), REQUIRED)
@pytest.mark.parametrize("null", [False, True])
def test_a_required_setting_that_is_missing_is_a_sentence(
    name: str, key: str, null: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [f"{other}=coco" for verb, other in REQUIRED if verb == name and other != key]
    assert cli.main([*name.split(), *others, *([f"{key}=null"] if null else [])]) == 2
    assert f"{key} is not set; add {key}=... (see 'detr-mini {name} --help')" in capsys.readouterr().err
