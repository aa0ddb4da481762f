"""A .pt2 file says the same as its checkpoint to torch alone, and a stranger's runs no code."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy_parts import SOURCES, Export
from detr_mini import load
from detr_mini.cli import main
from detr_mini.deploy.torch_file import target_size
from detr_mini.errors import CheckpointError
from detr_mini.images import model_input
from detr_mini.inference.detector import Detector
from detr_mini.scenes.shapes import draw_scene

Entries = dict[str, bytes]


@pytest.fixture(scope="module")
def program(export: Export) -> Path:
    return export("a.pt2")


class Harmful:
    """Pickled, it makes a file when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


@pytest.mark.parametrize(("size", "shorter_side"), [(64, None), (97, None), (1333, 800), (64, 32)])
def test_the_target_size_is_that_of_detect(size: int, shorter_side: int | None) -> None:
    for height in (1, 2, 17, 63, 64, 65, 333, 1000):
        for width in (1, 3, 64, 65, 128, 479, 1001, 4000):
            found = target_size(torch.tensor([height, width]), size, shorter_side).tolist()
            assert tuple(found) == model_input.target_size((height, width), size, shorter_side)


def test_torch_alone_reads_the_file(program: Path, own: Detector) -> None:
    said: dict[str, Any] = {"detr_mini.json": ""}
    opened = torch.export.load(str(program), extra_files=said).module()
    properties = json.loads(said["detr_mini.json"])
    assert json.loads(properties["names"]) == list(own.categories.names)
    assert json.loads(properties["sources"]) == SOURCES
    picture = draw_scene(0, "test", 1, 90).image
    boxes, scores, labels = (each[1] for each in opened(torch.from_numpy(picture).expand(2, -1, -1, -1)))
    kept = scores >= json.loads(properties["threshold"])
    found = own.detect(picture)
    assert len(found) > 0
    assert labels[kept].tolist() == found.labels.tolist()
    torch.testing.assert_close(boxes[kept], found.boxes, atol=0.5, rtol=0)


def test_the_file_names_no_place_of_this_machine(program: Path) -> None:
    content = program.read_bytes()
    for module in (torch, model_input):
        assert module.__file__ is not None
        assert str(Path(module.__file__).parents[1]).encode() not in content


def changed(program: Path, target: Path, change: Callable[[Entries], None]) -> Path:
    """A copy of the file with other entries; the names in `change` are without the archive's own folder."""
    with zipfile.ZipFile(program) as archive:
        root = archive.namelist()[0].partition("/")[0]
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(f"{root}/{name}", content)
    return target


def in_model(change: Callable[[Any], None]) -> Callable[[Entries], None]:
    def apply(entries: Entries) -> None:
        content = json.loads(entries["models/model.json"])
        change(content)
        entries["models/model.json"] = json.dumps(content).encode()

    return apply


def first_formula(content: Any) -> Any:
    """The first place of a formula in the description of a program."""
    if isinstance(content, dict):
        if "expr_str" in content:
            return content
        content = list(content.values())
    return (
        next((found for each in content if (found := first_formula(each))), None) if isinstance(content, list) else None
    )


def pickled_weight(entries: Entries) -> None:
    name = "data/weights/model_weights_config.json"
    config = json.loads(entries[name])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    entries[name] = json.dumps(config).encode()


HARMS: dict[str, tuple[Callable[[Entries], None], str]] = {
    "pickled weight": (pickled_weight, "pickled objects"),
    "compiled code": (lambda e: e.update({"data/aotinductor/model/a.so": b""}), "is none of those"),
    "older form": (lambda e: e.update({"serialized_state_dict.pt": b""}), "is none of those"),
    "guard": (in_model(lambda m: m.update(guards_code=["print(1)"])), "carries code"),
    "formula": (in_model(lambda m: first_formula(m).update(expr_str="__import__('os').getcwd()")), "expr_str"),
    "operator": (
        in_model(lambda m: m["graph_module"]["graph"]["nodes"][0].update(target="torch.ops.aten.from_file.default")),
        "target",
    ),
    "function": (in_model(lambda m: m["graph_module"]["graph"]["nodes"][0].update(target="torch.hub.load")), "target"),
    "notes": (
        in_model(lambda m: m["graph_module"]["graph"]["nodes"][0].update(metadata={"source_fn_stack": "a,torch.load"})),
        "notes",
    ),
    "name": (in_model(lambda m: m["graph_module"]["graph"]["nodes"][0].update(name="a = print(1)\nb")), "name"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_not_plain_is_refused_before_torch_reads_it(program: Path, harm: str, tmp_path: Path) -> None:
    change, says = HARMS[harm]
    with pytest.raises(CheckpointError, match=f"torch would run what it holds.*{says}"):
        load(changed(program, tmp_path / "a.pt2", change))


def test_pickled_inputs_run_nothing(program: Path, tmp_path: Path) -> None:
    mark, content = tmp_path / "mark", io.BytesIO()
    torch.save((Harmful(mark),), content, pickle_module=pickle)
    file = changed(program, tmp_path / "a.pt2", lambda e: e.update({"data/sample_inputs/model.pt": content.getvalue()}))
    with pytest.raises(CheckpointError, match="is not empty"):
        load(file)
    assert not mark.exists()


def test_an_unchanged_copy_is_read(program: Path, own: Detector, tmp_path: Path) -> None:
    assert load(changed(program, tmp_path / "b.pt2", lambda _: None)).categories == own.categories


def test_damaged_and_foreign_files_are_refused(program: Path, tmp_path: Path) -> None:
    damaged, foreign = tmp_path / "a.pt2", tmp_path / "b.pt2"
    damaged.write_bytes(program.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match="torch cannot read"):
        load(damaged)
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(2),)), str(foreign))
    with pytest.raises(CheckpointError, match="is no file of 'detr-mini export'"):
        load(foreign)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["format=torch", "output=a.onnx"], "format=torch writes a file that ends in .pt2"),
        (["output=a.pt2", "precision=fp16"], "precision is 'fp16'"),
        (["output=a.pt2", "input=tensor"], "input is 'tensor'"),
    ],
)
def test_what_a_program_cannot_be_is_said(
    checkpoint: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", f"checkpoint={checkpoint}", *words]) == 2
    assert says in capsys.readouterr().err
