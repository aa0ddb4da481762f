"""Checkpoints of strangers: nothing in them runs, is imported, fetched or written, and each is refused in a moment."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_checkpoints import HOSTILE, MARK, SPOIL, Content, Maker
from omegaconf import OmegaConf

import detr_mini
from detr_mini.cli import main
from detr_mini.config.compose import compose
from detr_mini.config.parts import OLDER, TABLE, find
from detr_mini.errors import ConfigError, UserError
from detr_mini.training.build import build
from memory_parts import growth

GOLDEN = Path(__file__).parents[1] / "golden" / "quickstart.ckpt"
SECONDS = 2.0
"""Of the processor, so that a busy machine is no fault."""
MEGABYTES = 400
DONE = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "socket.getaddrinfo",
        "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate",
        "shutil.copyfile")  # fmt: skip
WRITING = ("w", "a", "x", "+")


class Watch:
    """What the interpreter did while it was on (PEP 578): files opened for writing, processes, connections, imports."""

    def __init__(self) -> None:
        self.on, self.seen = False, list[str]()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: Any) -> None:
        if not self.on:
            return
        writes = event == "open" and isinstance(arguments[1], str) and any(sign in arguments[1] for sign in WRITING)
        if writes or event in DONE or (event == "import" and SPOIL in str(arguments[0])):
            self.seen.append(f"{event} {str(arguments)[:200]}")


@pytest.fixture(scope="module")
def watch() -> Watch:
    """The one watch of this process: a hook cannot be taken away again, so only a process that needs it has one."""
    return Watch()


@pytest.fixture(scope="module")
def sound() -> Content:
    """A checkpoint's content; what loading one imports is imported."""
    pytest.importorskip("transformers", "5.24", "transformers 5.24 is not installed: pip install 'detr-mini[hf]'")
    import transformers.models.detr.modeling_detr  # noqa: F401

    with suppress(ImportError):  # transformers imports it at some time, and it makes folders then
        import wandb  # noqa: F401

    detr_mini.load(GOLDEN)
    detr_mini.load(GOLDEN.parent / "hf_detr.ckpt")
    return torch.load(GOLDEN, weights_only=True)


@pytest.fixture
def watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch
) -> Iterator[Callable[[Callable[[], Any]], str]]:
    """Runs something that must be refused: its sentence. It took a moment, and nothing happened."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{SPOIL}.py").write_text(f"open({str(tmp_path / MARK)!r}, 'w').close()\nclass X: pass\n")

    def run(refused: Callable[[], Any]) -> str:
        before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
        grown, began = growth(), time.process_time()
        watch.seen, watch.on = [], True
        gc.freeze()  # the collector would look through all that earlier tests have left
        try:
            with pytest.raises(UserError) as caught:
                refused()
        finally:
            watch.on = False
            gc.unfreeze()
        took = time.process_time() - began
        more = grown()
        assert not watch.seen
        assert SPOIL not in sys.modules
        assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        assert took < SECONDS, took
        assert more < MEGABYTES
        sentence = str(caught.value)
        assert "\n" not in sentence and len(sentence) < 1500
        return sentence

    yield run
    sys.modules.pop(SPOIL, None)


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_s01_s02_s10_a_hostile_checkpoint_is_refused_in_a_moment_and_nothing_happens(
    make: Maker, sound: Content, watched: Callable[[Callable[[], Any]], str], tmp_path: Path
) -> None:
    file = make(tmp_path, sound)
    watched(lambda: detr_mini.load(file))


def test_s01_there_are_a_hundred_kinds_of_hostile_files() -> None:
    assert len(HOSTILE) >= 100


YAML = {
    "a module of the file's own": f"model: {{_target_: {SPOIL}.X}}\n",
    "a module that it names itself": f"modules: [{SPOIL}]\nmodel: {{_target_: {SPOIL}.X}}\n",
    "deep inside": f"data: {{augment: [{{_target_: {SPOIL}.X}}]}}\n",
    "a call": "data: {root: '${oc.create:{_target_: os.mkdir, path: marker}}'}\n",
    "the environment": "name: '${oc.env:HOME}'\n",
    "an alias bomb": "a: &a [x, x]\n" + "".join(
        f"{n}: &{n} [*{m}, *{m}]\n" for m, n in zip("abcdefghijkl", "bcdefghijklm", strict=True)),
    "an object": "name: !!python/object/apply:os.system [touch marker]\n",
    "5,000 brackets": "name: " + "[" * 5000 + "\n",
    "a number of 10^5 digits": "seed: " + "1" * 100_000 + "\n",
    "a megabyte": "name: " + "x" * 1_000_000 + "\n",
    "a list": "[1, 2]\n",
    "no text": "\x00\x01\x02",
    "nothing": "",
}  # fmt: skip


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_s03_a_run_folder_of_a_stranger_is_never_imported_from(
    text: str, watched: Callable[[Callable[[], Any]], str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(text)
    compose("train", [])  # reads what it reads once
    if text:
        watched(lambda: compose("train", [f"resume={run}"]))
    assert main(["train", f"resume={run}"]) == 2
    assert not (tmp_path / MARK).exists()
    assert SPOIL not in sys.modules


def test_s01_the_refusal_says_what_may_be_built_and_how_ones_own_class_is_named(
    sound: Content, tmp_path: Path, watched: Callable[[Callable[[], Any]], str]
) -> None:
    file = HOSTILE[f"model is {SPOIL}.X"](tmp_path, sound)
    sentence = watched(lambda: detr_mini.load(file))
    assert f"model._target_ is '{SPOIL}.X', which is not in the list of what a config may build" in sentence
    assert "detr_mini.models.MiniDETR" in sentence
    assert f"add modules=[{SPOIL}]" in sentence


def test_s01_every_name_of_the_table_is_there_under_its_older_name_too() -> None:
    for kind, names in TABLE.items():
        for name in names:
            assert callable(find(name, "x", (kind,)))
    assert all(find(old, "x") is find(new, "x") for old, new in OLDER.items())
    with pytest.raises(ConfigError, match="not in the list"):
        find("detr_mini.models.MiniDETR", "x", ("backbone",))


OWN = """
import torch
from detr_mini.models import mini

class Darker:
    moves = False
    def __init__(self, by=0.5): self.by = by
    def __call__(self, sample):
        image, boxes, *rest = sample
        return ((image * self.by).to(torch.uint8), boxes, *rest)

class Mine(mini.MiniDETR):
    pass
"""


def test_s01_ones_own_class_is_built_where_the_command_names_its_module(
    scenes_root: Path, sound: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_own_parts.py").write_text(OWN)
    words = [f"data.root={scenes_root}", "trainer.max_steps=1", "data.size=64",
             "data.make={train: 16, val: 8, test: 6, size: 64, seed: 0}",
             "data.augment=[{_target_: my_own_parts.Darker, by: 0.25}]"]  # fmt: skip
    with pytest.raises(ConfigError, match=r"add modules=\[my_own_parts\]"):
        compose("train", words)
    content = {
        **sound,
        "config": {**sound["config"], "model": {**sound["config"]["model"], "_target_": "my_own_parts.Mine"}},
    }
    torch.save(content, "own.ckpt")
    with pytest.raises(UserError, match=r"add modules=\[my_own_parts\]"):
        detr_mini.load("own.ckpt")
    assert type(detr_mini.load("own.ckpt", modules=["my_own_parts"]).model).__name__ == "Mine"
    content["config"]["model"]["_target_"] = "my_own_parts.mini.MiniDETR"
    torch.save(content, "own.ckpt")
    with pytest.raises(UserError, match="cannot be imported"):
        detr_mini.load("own.ckpt", modules=["my_own_parts"])
    content["config"]["model"]["_target_"] = "my_own_parts.torch"
    torch.save(content, "own.ckpt")
    with pytest.raises(UserError, match="which my_own_parts does not define"):
        detr_mini.load("own.ckpt", modules=["my_own_parts"])
    data = build(compose("train", [*words, "modules=[my_own_parts]"])).data
    assert [type(transform).__name__ for transform in data.augment.transforms] == ["Darker"]


def test_s01_transforms_of_torchvision_may_be_nested_on_the_command_line(scenes_root: Path) -> None:
    nested = ("data.augment=[{_target_: torchvision.transforms.v2.RandomApply, p: 0.5, transforms: ["
              "{_target_: torchvision.transforms.v2.ColorJitter, hue: 0.1}]}]")  # fmt: skip
    data = build(compose("train", [f"data.root={scenes_root}", "data.size=64", nested, "trainer.max_steps=1",
                                   "data.make={train: 16, val: 8, test: 6, size: 64, seed: 0}"])).data  # fmt: skip
    assert "ColorJitter" in str(data.augment.transforms[0].transforms)
    for wrong in ("torchvision.transforms.v2.Lambda", "torchvision.io.read_file", "torchvision.transforms.v2.Nope"):
        with pytest.raises(ConfigError, match="not in the list"):
            compose("train", [f"data.augment=[{{_target_: {wrong}}}]"])


def test_s03_every_recipe_of_the_package_names_only_what_the_table_has() -> None:
    folder = Path(detr_mini.__file__).parents[1] / "configs"
    for group in ("data", "model", "optim", "backbone", "augment", "sweep", "experiment"):
        for file in (folder / group).glob("*.yaml"):
            for target in _targets(OmegaConf.to_container(OmegaConf.load(file))):
                assert callable(find(target, str(file)))


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from [node["_target_"]] if "_target_" in node else []
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _targets(value)


def test_s04_the_oldest_versions_that_are_admitted_have_the_published_mends() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"hydra-core>=1.3.6"' in text
    assert '"pytorch-lightning>=2.6.6"' in text
