"""An installed wheel works from any folder: configs, data and console script come with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment_trains_from_another_folder(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("detr_mini-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "detr_mini/configs/train.yaml" in names
    assert not [name for name in names if name.startswith(("tests/", "data/", "outputs/"))]
    # torch is too big to be installed again: its folder is lent to the environment, behind the environment's own
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    site = next((environment / "lib").glob("python3*")) / "site-packages"
    lent = [path for path in sys.path if path.endswith("site-packages")]
    (site / "lent.pth").write_text("\n".join(lent))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ["experiment=quickstart", "trainer.max_epochs=1", "trainer.progress=false",
             "data.make={train: 32, val: 8, test: 8, seed: 0, size: 128}"]  # fmt: skip
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    where = subprocess.run(
        [python, "-c", "import detr_mini; print(detr_mini.__file__)"],
        cwd=elsewhere,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert str(site) in where.stdout
    done = subprocess.run(
        [environment / "bin" / "detr-mini", "train", *words], cwd=elsewhere, env=clean, capture_output=True, text=True,
        timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((elsewhere / "outputs" / "quickstart" / "metrics.json").read_text())
    assert metrics["images"] == 8
