"""Completion in a shell: verbs, settings and the files that may be chosen."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from detr_mini.cli import main
from detr_mini.completion import SHELLS, script
from detr_mini.errors import ConfigError
from detr_mini.help_texts import VERBS


def completed(line: str) -> list[str]:
    """What bash offers at the end of `line`."""
    words = line.split(" ")
    code = (
        f"{script('bash')}\ncompopt() {{ :; }}\nCOMP_WORDS=({' '.join(repr(w) for w in words)})\n"
        f"COMP_CWORD={len(words) - 1}\nCOMP_LINE={line!r}\nCOMP_POINT={len(line)}\nCOMP_WORDBREAKS=\n"
        "_detr_mini\nprintf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and not done.stderr
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_verbs_settings_and_choices() -> None:
    assert completed("detr-mini tr") == ["train"]
    assert completed("detr-mini data sp") == ["split"]
    assert completed("detr-mini report out") == ["output="]
    assert completed("detr-mini train backbone=resnet1") == [
        "backbone=resnet101",
        "backbone=resnet101_dc5",
        "backbone=resnet101_frozen_stem",
        "backbone=resnet18",
    ]
    assert "fix=" in completed("detr-mini data check ")
    assert completed("detr-mini benchmark step experiment=finetune_") == ["experiment=finetune_detr"]
    assert completed("detr-mini data doubt res") == [], "the folds have folders of their own"
    assert completed("detr-mini data doubt see") == ["seed="]
    assert completed("detr-mini nonsense") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_is_printed_and_names_every_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(part in text for verb in VERBS for part in verb.split())
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=text, text=True, timeout=30).returncode == 0


def test_an_unknown_shell_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'bash'"):
        script("bahs")
    assert main(["completion"]) == 2
    assert "choose one of bash, zsh, fish" in capsys.readouterr().err
