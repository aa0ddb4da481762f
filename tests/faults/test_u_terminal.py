"""Terminals that cannot print everything, readers that have gone, and what a notebook leaves in the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from detector_parts import checkpoint_of, untrained
from detr_mini import environment as surroundings
from detr_mini.config.compose import compose
from detr_mini.config.run_folder import write_text
from detr_mini.drawing.text import font, shortened
from detr_mini.verbs.predict import predict

COMMAND = [sys.executable, "-m", "detr_mini"]


def test_u18_help_into_a_reader_that_has_gone_is_quiet() -> None:
    for words in (["--help"], ["data", "--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run([*COMMAND, *words], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, "")


def test_u06_a_character_that_the_terminal_lacks_is_a_question_mark() -> None:
    code = (
        "import sys; from detr_mini import cli\n"
        "cli._run = lambda words: print('class ネコ', 'caf\\udce9.jpg') or 0\n"
        "sys.exit(cli.main(['x']))"
    )
    for encoding in ("cp1252", "ascii", "utf-8"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        assert b"caf?.jpg" in done.stdout
        assert (b"class ??" in done.stdout) == (encoding != "utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only names that are text")
def test_u06_a_picture_whose_name_is_no_text_is_searched_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"photos \xe9")
    folder.mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / os.fsdecode(b"caf\xe9.jpg"))
    (folder / os.fsdecode(b"broken\xe9.png")).write_bytes(b"none")
    torch.save(checkpoint_of(untrained()), tmp_path / "last.ckpt")
    words = [f"checkpoint={tmp_path}/last.ckpt", f"source={folder}", f"output={tmp_path}/out", "threshold=0"]
    with open(tmp_path / "said", "w", encoding="cp1252") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        surroundings.printable()
        output = predict(compose("predict", words))
    assert (output / "drawn" / os.fsdecode(b"caf\xe9.jpg")).is_file()
    assert "1 image could not be read" in (tmp_path / "said").read_text("cp1252")


def test_u06_settings_and_pictures_hold_names_that_are_no_text(tmp_path: Path) -> None:
    write_text(tmp_path / "config.yaml", OmegaConf.to_yaml({"root": "caf\udce9"}))
    assert OmegaConf.load(tmp_path / "config.yaml").root == "caf\udce9"
    write_text(tmp_path / "x", "caf\udce9")
    assert (tmp_path / "x").read_text() == "caf\\udce9"
    assert shortened("caf\udce9", font(12), 400) == "caf?"


@pytest.mark.parametrize("backend", ["module://no_such.backend_inline", "module://no_such_module"])
def test_u05_a_notebooks_backend_that_is_not_there_is_left_alone(backend: str) -> None:
    environment = {**os.environ, "MPLBACKEND": backend}
    code = "import detr_mini.drawing.text, matplotlib; print(matplotlib.get_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.strip().lower() == "agg", done.stderr


def test_u05_the_command_line_draws_into_files_whatever_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    for backend in ("module://matplotlib_inline.backend_inline", "TkAgg", "nonsense"):
        monkeypatch.setenv("MPLBACKEND", backend)
        surroundings.drawable(anywhere=True)
        assert os.environ["MPLBACKEND"] == "agg"
