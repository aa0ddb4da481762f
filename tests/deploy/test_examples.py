"""The programs in docs/examples find what the checkpoint finds, without torch and without this package."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import venv
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from browser_parts import CHROMIUM, NO_CHROMIUM, chromium, guarded_page
from deploy_parts import Export
from detr_mini.deploy.agreement import made_pictures
from detr_mini.inference.detector import Detector

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
INCLUDE = "ONNXRUNTIME_INCLUDE"
"""The environment variable that names the folder of onnxruntime_c_api.h."""
WEB = "ONNXRUNTIME_WEB"
"""The environment variable that names a folder in which `npm install onnxruntime-web` was run."""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG: a JPEG may be decoded differently by a browser."""
    path = tmp_path_factory.mktemp("picture") / "a.png"
    Image.fromarray(made_pictures()[3]).save(path)
    return path


def assert_same(own: Detector, picture: Path, names: Sequence[str], scores: Any, boxes: Any) -> None:
    found = own.detect(picture)
    assert len(found) > 0
    assert list(names) == list(found.names)
    torch.testing.assert_close(torch.tensor(scores), found.scores, atol=0.005, rtol=0)
    torch.testing.assert_close(torch.tensor(boxes), found.boxes, atol=1.0, rtol=0)


def distributions(names: Sequence[str]) -> dict[str, metadata.Distribution]:
    """The installed packages `names` and what they need."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [*names]
    while waiting:
        name = waiting.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = distribution
        needed = (line for line in distribution.requires or () if "extra" not in line)
        waiting += [n for n in (_name(line) for line in needed) if n not in found]
    return found


def _name(requirement: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else " " for c in requirement).split()[0]


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds onnxruntime, numpy and Pillow, linked from this one, and nothing else."""
    pytest.importorskip("onnxruntime", reason="the package onnxruntime of the extra 'export' is not installed")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    (packages,) = folder.glob("lib/python*/site-packages") if os.name != "nt" else folder.glob("Lib/site-packages")
    for distribution in distributions(["onnxruntime", "numpy", "pillow"]).values():
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def test_python_without_torch_finds_the_same(export: Export, own: Detector, without_torch: Path, picture: Path) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    absent = subprocess.run([without_torch, "-c", "import torch"], env=clean, capture_output=True, check=False)
    assert b"No module named 'torch'" in absent.stderr
    words = [without_torch, EXAMPLES / "detect_onnx.py", export("a.onnx"), picture]
    shown = subprocess.run(words, env=clean, capture_output=True, text=True, timeout=300, check=False)
    assert shown.returncode == 0, shown.stderr
    lines = [line.rsplit(maxsplit=5) for line in shown.stdout.splitlines()]
    numbers = [[float(word) for word in line[1:]] for line in lines]
    assert_same(own, picture, [line[0] for line in lines], [n[0] for n in numbers], [n[1:] for n in numbers])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """detect_onnx.cpp, compiled against the library in the Python package of onnxruntime."""
    onnxruntime: Any = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on the path")
    places = [os.environ.get(INCLUDE), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime"]
    header = next((p for p in places if p and (Path(p) / "onnxruntime_c_api.h").exists()), None)
    if header is None:
        pytest.skip(f"no onnxruntime_c_api.h, which is in the archives of onnxruntime's releases: set {INCLUDE} to its "
                    "folder")  # fmt: skip
    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("the package onnxruntime holds no shared library on this system")
    output = tmp_path_factory.mktemp("program") / "detect_onnx"
    (output.parent / "libonnxruntime.so.1").symlink_to(libraries[0])  # the name by which the loader looks for it
    words = [compiler, "-std=c++17", "-Wall", "-Werror", "-I", header, EXAMPLES / "detect_onnx.cpp", libraries[0],
             f"-Wl,-rpath,{output.parent}", "-o", output]  # fmt: skip
    built = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    return output


def test_cpp_finds_the_same(export: Export, own: Detector, program: Path, picture: Path, tmp_path: Path) -> None:
    Image.open(picture).save(tmp_path / "a.ppm")
    words = [program, export("a.onnx"), tmp_path / "a.ppm"]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert shown.returncode == 0, shown.stderr
    names, *lines = shown.stdout.splitlines()
    assert names == str(list(own.categories.names)).replace("'", '"')
    numbers = [[float(word) for word in line.split()] for line in lines]
    found = [own.categories.names[int(row[0])] for row in numbers]
    assert_same(own, picture, found, [row[1] for row in numbers], [row[2:] for row in numbers])


def test_cpp_says_what_it_cannot_use(export: Export, program: Path, picture: Path, tmp_path: Path) -> None:
    Image.open(picture).save(tmp_path / "a.ppm")
    content = (tmp_path / "a.ppm").read_bytes()
    (tmp_path / "cut.ppm").write_bytes(content[:-10])
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    model = export("a.onnx")
    for words, says in (
        ([model, picture], "no binary PPM"),
        ([model, tmp_path / "cut.ppm"], "the picture is cut off"),
        ([tmp_path / "bad.onnx", tmp_path / "a.ppm"], "bad.onnx"),
    ):
        shown = subprocess.run([program, *words], capture_output=True, text=True, timeout=300, check=False)
        assert shown.returncode == 1
        assert says in shown.stderr


@pytest.fixture(scope="module")
def site(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """docs/examples/web with a model and the files of the npm package, served as `python -m http.server` does."""
    folder = tmp_path_factory.mktemp("site") / "web"
    shutil.copytree(EXAMPLES / "web", folder, ignore=shutil.ignore_patterns("node_modules", "*.onnx"))
    have = [Path(p) / "node_modules" for p in (os.environ.get(WEB), EXAMPLES / "web") if p]
    fetched = next((p for p in have if (p / "onnxruntime-web").is_dir()), None)
    if fetched is not None:
        (folder / "node_modules").symlink_to(fetched.resolve())
    elif npm := shutil.which("npm"):
        words = [npm, "install", "--no-save", "onnxruntime-web"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot fetch onnxruntime-web: {done.stderr.strip()[-200:]}")
    else:
        pytest.skip(f"no npm on the path, and {WEB} names no folder with onnxruntime-web")
    shutil.copy(export("a.onnx"), folder / "model.onnx")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_a_browser_without_a_network_finds_the_same(own: Detector, site: str, picture: Path) -> None:
    sync_api: Any = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    elsewhere: list[str] = []
    with chromium(sync_api) as browser:
        page = guarded_page(browser, site, elsewhere)
        page.goto(site)
        page.wait_for_selector("#file:enabled, #status:has-text('cannot')")
        assert page.text_content("#status") == "choose a picture"
        page.set_input_files("#file", str(picture))
        page.wait_for_function("window.found !== undefined")
        found = page.evaluate("window.found")
        assert page.locator("rect").count() == len(found)
    assert not elsewhere
    names, scores, boxes = ([one[key] for one in found] for key in ("name", "score", "box"))
    assert_same(own, picture, names, scores, boxes)
