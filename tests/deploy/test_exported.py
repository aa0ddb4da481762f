"""Exported files find what their checkpoint finds, behind the same face, with nothing but what they were given."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import detr_mini
from deploy_parts import BOXES, SOURCES, Export
from detector_parts import CATEGORIES, IMAGE, MODEL, untrained
from detr_mini import load
from detr_mini.cli import main
from detr_mini.deploy import onnx_file, packages
from detr_mini.deploy.agreement import TOLERANCES, compare, made_pictures
from detr_mini.deploy.description import OLDEST, Description
from detr_mini.deploy.detector import ExportedDetector
from detr_mini.deploy.export import Choice, export_detector, placed
from detr_mini.errors import CheckpointError, ConfigError, UserError
from detr_mini.images.tiling import BoxSizes
from detr_mini.inference.detect_tiles import tile_side
from detr_mini.inference.detector import Detector
from run_parts import write_run
from training_parts import unchecked

FORMS = {
    "onnx": ("a.onnx",),
    "openvino": ("a_openvino", "format=openvino"),
    "torch": ("a.pt2",),
    "tensor": ("a.onnx", "input=tensor"),
    "unsuppressed": ("a.onnx", "suppress_iou=null"),
    "onnx fp16": ("a.onnx", "precision=fp16"),
    "openvino fp16": ("a_openvino", "format=openvino", "precision=fp16"),
}
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "detect_onnx.py"


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((40, 60), (64, 64), (3, 90))]
    return [*noise, *made_pictures()]


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_tiles_auto_goes_by_what_the_checkpoint_learned_from(export: Export, own: Detector, form: str) -> None:
    exported = load(export(*FORMS[form]))
    assert exported.box_sizes == own.box_sizes == BoxSizes(**BOXES)
    assert tile_side(exported, "auto") == tile_side(own, "auto") != own.image["size"]


def test_by_tiles_too_a_file_finds_what_its_checkpoint_finds(export: Export, own: Detector) -> None:
    image = np.random.default_rng(0).integers(0, 256, (130, 150, 3), np.uint8)
    exported = load(export(*FORMS["onnx"]))
    ours, theirs = (each.detect(image, threshold=0.01, tiles=64) for each in (own, exported))
    assert len(ours) > 0 and len(theirs) == len(ours)
    assert theirs.scores.tolist() == pytest.approx(ours.scores.tolist(), abs=0.01)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_finds_what_its_checkpoint_finds(export: Export, own: Detector, form: str) -> None:
    exported = load(export(*FORMS[form]))
    assert isinstance(exported, ExportedDetector)
    precision = "fp16" if "fp16" in form else "fp32"
    if form == "unsuppressed":
        exported.operating_point = own.operating_point
    agreement = compare(own, exported, pictures(), TOLERANCES[precision], 100)
    assert agreement.detections > 80
    assert agreement.unpaired <= (0 if precision == "fp32" else 0.05 * agreement.detections), str(agreement)
    ours, theirs = (each.detect(made_pictures()[3]) for each in (own, exported))
    assert len(ours) > 0
    if precision == "fp32":
        assert theirs.names == ours.names
        assert theirs.image_size == ours.image_size
        torch.testing.assert_close(theirs.scores, ours.scores, atol=0.005, rtol=0)
        torch.testing.assert_close(theirs.boxes, ours.boxes, atol=1.2, rtol=0)


@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
def test_batches_folders_and_limits_are_those_of_detect(
    export: Export, own: Detector, form: str, tmp_path: Path
) -> None:
    exported: Any = load(export(*FORMS[form]))
    given = [*pictures()[:3], pictures()[0]]
    together = exported.detect(given, batch_size=4)
    for one, found in zip(given, together, strict=True):
        torch.testing.assert_close(found.scores, exported.detect(one).scores, atol=1e-4, rtol=0)
    limited, ours = (each.detect(given[1], threshold=0.0, limit=5) for each in (exported, own))
    assert limited.names == ours.names  # suppressed rows count as in the model's own detections
    Image.fromarray(given[0]).save(tmp_path / "b.png")
    (of_folder,) = exported.detect(tmp_path)
    assert of_folder.source == tmp_path / "b.png"
    assert of_folder.names == exported.detect(given[0]).names


def test_the_file_says_what_it_is_and_names_no_place_of_this_machine(export: Export, own: Detector) -> None:
    onnx: Any = pytest.importorskip("onnx")
    path = export(*FORMS["onnx"])
    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(said["names"]) == list(own.categories.names)
    assert json.loads(said["category_ids"]) == list(own.categories.ids)
    assert said["threshold"] == "0.025"
    assert said["suppress_iou"] == "0.5"
    assert said["size"] == "64"
    assert said["recipe"] == '"test"'
    assert said["opset"] == "18"
    assert said["detr_mini"] == detr_mini.__version__
    assert json.loads(said["sources"]) == SOURCES
    assert json.loads(said["runtimes"]) == OLDEST
    content = path.read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in content
    assert str(Path(detr_mini.__file__).parent).encode() not in content
    described = Description.read(said, "a.onnx")
    assert described.properties() == said
    assert load(export(*FORMS["openvino"])).description.properties() == said  # type: ignore[union-attr]


def test_the_oldest_runtimes_are_those_that_the_package_asks_for() -> None:
    asked = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name, version in OLDEST.items():
        assert f'"{name}>={version}"' in asked


def test_half_precision_halves_the_file(export: Export) -> None:
    whole, half = (export(*FORMS[form]).stat().st_size for form in ("onnx", "onnx fp16"))
    assert half < 0.75 * whole  # the tiny model's graph is as large as its weights


def test_repr_and_thresholds_are_those_of_the_checkpoint(export: Export, own: Detector) -> None:
    exported = load(export(*FORMS["onnx"]))
    assert exported.categories == own.categories
    assert exported.operating_point == own.operating_point
    assert exported.least_score() == own.least_score() == 0.025
    assert "circle" in repr(exported) and "ONNX Runtime" in repr(exported)
    assert "circle" in repr(own) and "threshold 0.025" in repr(own)


def test_what_a_file_cannot_do_is_said(export: Export, tmp_path: Path) -> None:
    path = export(*FORMS["onnx"])
    exported: Any = load(path)
    picture = pictures()[0]
    with pytest.raises(UserError, match="takes no captions"):
        exported.detect(picture, caption="a circle")
    with pytest.raises(ConfigError, match="export the checkpoint again with limit=300"):
        exported.detect(picture, limit=300)
    with pytest.raises(ConfigError, match="it is a score from 0 to 1"):
        exported.detect(picture, threshold=30)
    with pytest.raises(UserError, match=r"itself suppresses overlaps above 0\.5"):
        exported.operating_point = type(exported.operating_point)(0.5, None)
    for device in ("cuda", "gpu", "cuda:1"):
        with pytest.raises(UserError, match="runs on the CPU"):
            load(path, device)
    assert load(path, torch.device("cpu", 0)).categories == exported.categories
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="ONNX Runtime cannot read"):
        load(damaged)
    with pytest.raises(CheckpointError, match="there is no exported file"):
        load(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict.clear, "is no file of 'detr-mini export'"),
        (lambda said: said.update(threshold="7"), "its metadata"),
        (lambda said: said.update(names='["a"]'), "its metadata"),
        (lambda said: said.pop("size"), "its metadata"),
        (lambda said: said.update(mean="[[[["), "its metadata"),
    ],
)
def test_foreign_files_are_refused(export: Export, tmp_path: Path, change: Any, says: str) -> None:
    onnx: Any = pytest.importorskip("onnx")
    model = onnx.load(export(*FORMS["onnx"]))
    said = {entry.key: entry.value for entry in model.metadata_props}
    change(said)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, said)
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match=says):
        load(tmp_path / "foreign.onnx")


def test_a_file_that_disagrees_is_not_left_behind(
    checkpoint: Path, traced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx: Any = pytest.importorskip("onnx")
    wrong = copy.deepcopy(traced)
    for tensor in wrong.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= onnx_file.HALVED:
            tensor.CopyFrom(onnx.numpy_helper.from_array(-values, tensor.name))
    monkeypatch.setattr(onnx_file, "_traced", lambda *_: copy.deepcopy(wrong))
    output = tmp_path / "wrong.onnx"
    for words in ([], ["format=openvino"]):
        where = output.with_suffix("" if words else ".onnx")
        assert main(["export", f"checkpoint={checkpoint}", f"output={where}", *words]) == 2
        assert "does not find what the checkpoint finds" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["output=a.onnx", "format=onx"], "format is 'onx'; did you mean 'onnx'?"),
        (["output=a.onnx", "precision=int4"], "precision is 'int4'"),
        (["output=a.onnx", "input=pixel"], "input is 'pixel'; did you mean 'pixels'?"),
        (["output=a.onnx", "limit=0"], "limit is 0"),
        (["output=a.bin"], "format=onnx writes a file that ends in .onnx, and the output is a.bin; use output=a.onnx"),
        (["output=a.onnx", "format=openvino"], "format=openvino writes a folder"),
        (["output=a.safetensors", "precision=fp32"], "precision is 'fp32'; did you mean 'fp16'?; choose one of fp16"),
        (["output=a.onnx", "pictures=nowhere"], "nowhere"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(
    checkpoint: Path, words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["export", f"checkpoint={checkpoint}", *words]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(packages, "import_module", nothing)
    assert main(["export", f"checkpoint={checkpoint}", f"output={tmp_path / 'a.onnx'}"]) == 2
    assert "the package onnx is not installed; install it with: pip install" in capsys.readouterr().err
    (tmp_path / "b.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="the package onnxruntime is not installed"):
        load(tmp_path / "b.onnx")


def test_other_files_in_an_openvino_folder_are_not_touched(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["export", f"checkpoint={checkpoint}", f"output={tmp_path}", "format=openvino"]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("place", "words"), [("a.onnx", []), ("a.pt2", []), ("a_openvino/model.xml", ["format=openvino"])]
)
def test_a_file_that_export_did_not_write_is_not_replaced(
    checkpoint: Path, place: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"<net>mine</net>")
    output = file.parent if words else file
    assert main(["export", f"checkpoint={checkpoint}", f"output={output}", *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{file} is there already, and 'detr-mini export' did not write it" in said
    assert file.read_bytes() == b"<net>mine</net>"


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_an_earlier_export_is_replaced(
    export: Export, checkpoint: Path, traced: Any, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = export(*FORMS[form])
    (shutil.copytree if earlier.is_dir() else shutil.copy)(earlier, output := tmp_path / earlier.name)
    monkeypatch.setattr(onnx_file, "_traced", lambda *_: copy.deepcopy(traced))
    words = [*FORMS[form][1:], "suppress_iou=0.4"]
    assert main(["export", f"checkpoint={checkpoint}", f"output={output}", *words]) == 0
    assert load(output).operating_point.suppress_iou == 0.4


def test_the_file_that_is_loaded_is_moved_last(tmp_path: Path) -> None:
    names = {"model.xml", "model.bin", "text.xml", "text.bin", "tokenizer.json"}
    for name in names:
        (tmp_path / name).touch()
    places = [place.relative_to(tmp_path / "out").as_posix() for _, place in placed(tmp_path, tmp_path / "out", True)]
    assert set(places) == names
    assert places[-1] == "model.xml"


@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
def test_predict_and_evaluate_take_a_file_as_a_checkpoint(
    export: Export, checkpoint: Path, form: str, scenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for name, path in (("own", checkpoint), ("file", export(*FORMS[form]))):
        output = tmp_path / name
        words = [f"source={scenes_root / 'val'}", f"output={output}", "draw=false"]
        assert main(["predict", f"checkpoint={path}", *words]) == 0
        records = json.loads((output / "predictions.json").read_text())
        data = ["data=coco", f"data.root={scenes_root}", "data.val.images=val"]
        data += ["data.val.annotations=annotations/val.json", "resamples=0", "gallery=0"]
        assert main(["evaluate", f"checkpoint={path}", *data, f"output={tmp_path / f'{name}-measured'}"]) == 0
        metrics = json.loads((tmp_path / f"{name}-measured" / "metrics.json").read_text())
        found[name] = records, metrics
    (records, metrics), (others, same) = found["own"], found["file"]
    assert [(r["image_id"], r["category_id"]) for r in others] == [(r["image_id"], r["category_id"]) for r in records]
    assert same["AP"] == pytest.approx(metrics["AP"], abs=1e-3)
    assert same["parameters"] == metrics["parameters"]
    assert same["suppress_iou"] == 0.5
    capsys.readouterr()
    path = export(*FORMS[form])
    for words, says in ((["size=96"], "keeps its image size"), (["by=names"], "takes no captions")):
        assert main(["evaluate", f"checkpoint={path}", *words]) == 2
        assert says in capsys.readouterr().err
    assert main(["predict", f"checkpoint={path}", f"source={scenes_root / 'val'}", "explain=true"]) == 2
    assert "explain=true needs a checkpoint" in capsys.readouterr().err


def test_a_limit_above_that_of_a_file_is_refused_with_settings_of_evaluate_and_export(
    export: Export, scenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export(*FORMS["onnx"])
    run = write_run(tmp_path / "run", scenes_root, 0.1)
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "detection_limit": 300}))
    says = f"detection_limit is 300, and {path} gives 100 detections of an image at most; evaluate it (and what it is "
    says += "compared with) with detection_limit=100, or export it again with limit=300"
    for words in (["evaluate", f"checkpoint={path}", "detection_limit=300"], ["compare", f"runs=[{run},{path}]"]):
        assert main([*words, f"output={tmp_path / 'out'}"]) == 2
        assert says in " ".join(capsys.readouterr().err.split())
    data = ["data=coco", f"data.root={scenes_root}", "data.val.images=val", "data.val.annotations=annotations/val.json"]
    words = [f"checkpoint={path}", *data, "tiles=64", "detection_limit=300", "resamples=0", "gallery=0"]
    assert main(["evaluate", *words, f"output={tmp_path / 'tiles'}"]) == 0
    assert json.loads((tmp_path / "tiles" / "metrics.json").read_text())["detection_limit"] == 300


def test_the_example_needs_no_torch(export: Export, own: Detector, tmp_path: Path) -> None:
    Image.fromarray(made_pictures()[3]).save(tmp_path / "a.png")
    refuse = "import runpy, sys; sys.modules.update(torch=None, torchvision=None, detr_mini=None); "
    command = f"{refuse}sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    words = [sys.executable, "-c", command, str(EXAMPLE), str(export(*FORMS["onnx"])), str(tmp_path / "a.png")]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert shown.returncode == 0, shown.stderr
    found = own.detect(tmp_path / "a.png")
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert [line[0] for line in lines] == list(found.names)
    assert len(lines) > 0
    boxes = torch.tensor([[float(number) for number in line[2:]] for line in lines])
    torch.testing.assert_close(boxes, found.boxes, atol=1.0, rtol=0)


def test_nothing_is_sent_over_the_network(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)  # some packages report from another process
    export("again_openvino", "format=openvino")
    load(export("again_openvino", "format=openvino")).detect(pictures()[0])


SIGNALLED = """
import os, signal, sys
from detr_mini import load
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
detectors = [load(sys.argv[1]) for _ in range(3)]
while detectors:
    detectors.pop(0)
os.kill(os.getpid(), signal.SIGUSR1)
assert caught
"""


def test_a_signal_after_openvino_detectors_have_gone_does_not_end_the_process(export: Export) -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED, export(*FORMS["openvino"])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"_target_": "detr_mini.models.DETR", "dim": 32, "heads": 2, "feedforward": 32, "encoder_layers": 1,
         "decoder_layers": 1, "queries": 8},
        {**MODEL, "decoder": {"cross_attention": "deformable"}},
        {**MODEL, "encoder": {"attention": "performer"}},
        {**MODEL, "encoder": {"attention": "linformer"}},
        {**MODEL, "encoder": {"attention": "windowed", "window": 1}},
    ],
    ids=["detr", "deformable", "performer", "linformer", "windowed"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_other_models_are_exported(model: dict[str, Any], kind: str, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"the package {name} of the extra 'export' is not installed")
    detector = Detector(untrained(model), CATEGORIES, IMAGE)
    if kind == "torch" and model.get("encoder", {}).get("attention") == "linformer":  # its maps have a largest size
        with unchecked(), pytest.raises(UserError, match="torch cannot export this model"):
            export_detector(detector, tmp_path / "a.pt2", Choice(kind))
        assert not (tmp_path / "a.pt2").exists()
        return
    with unchecked():
        (agreement,) = export_detector(
            detector, tmp_path / {"onnx": "a.onnx", "torch": "a.pt2"}[kind], Choice(kind), pictures=pictures()
        )
    assert agreement.unpaired == 0, str(agreement)
