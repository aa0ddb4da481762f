"""Eight bits: what is quantised, on which pictures, and that a detector still finds what it found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploy_parts import traced_once
from detr_mini.cli import main
from detr_mini.deploy import export as export_module
from detr_mini.deploy.agreement import TOLERANCES, compare
from detr_mini.deploy.calibration import COUNT, calibration_pictures
from detr_mini.deploy.export import Choice, export_detector
from detr_mini.deploy.load import load
from detr_mini.deploy.quantise import quantise
from detr_mini.errors import ConfigError, UserError
from detr_mini.inference.detector import Detector
from detr_mini.inference.detector import load as load_checkpoint
from detr_mini.scenes.shapes import draw_scene
from detr_mini.shards import remote
from training_parts import unchecked

onnx = pytest.importorskip("onnx", reason="the package onnx of the extra 'export' is not installed")
ort = pytest.importorskip("onnxruntime", reason="the package onnxruntime of the extra 'export' is not installed")
SIX_CONVOLUTIONS = """<ir_version: 10, opset_import: ["" : 18]>
net (float[n, 4, 16, 16] images) => (float[n, 4, 4, 4] found) {
    resized = Conv <kernel_shape = [1, 1]> (images, outside)
    network_0 = Conv <kernel_shape = [3, 3]> (resized, w0)
    network_1 = Conv <kernel_shape = [3, 3]> (network_0, w1)
    network_2 = Conv <kernel_shape = [3, 3]> (network_1, w2)
    network_3 = Conv <kernel_shape = [3, 3]> (network_2, w3)
    network_4 = Conv <kernel_shape = [3, 3]> (network_3, w4)
    found = Conv <kernel_shape = [3, 3]> (network_4, w5)
}"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A file with a convolution outside the network, and six inside."""
    model = onnx.parser.parse_model(SIX_CONVOLUTIONS)
    rng = np.random.default_rng(0)
    shapes = {"outside": (4, 4, 1, 1), **{f"w{k}": (4, 4, 3, 3) for k in range(6)}}
    for name, shape in shapes.items():
        values = rng.normal(0, 0.2, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for node in model.graph.node[1:-1]:
        node.output[0] = node.output[0].replace("network_", "network/")
    for node in model.graph.node:
        node.input[0] = node.input[0].replace("network_", "network/")
    model.graph.node[-1].output[0] = "network/found"
    model.graph.output[0].name = "network/found"
    onnx.save(model, str(tmp_path / "net.onnx"))
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("float_first", [0, 2, 5])
def test_convolutions_of_the_network_are_quantised_but_for_the_first(net: Path, float_first: int) -> None:
    rng = np.random.default_rng(1)
    inputs = [{"images": rng.normal(0, 1, (1, 4, 16, 16)).astype(np.float32)} for _ in range(4)]
    target = net.with_name("int8.onnx")
    quantise(net, target, iter(inputs), float_first)
    graph = onnx.load(str(target)).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    activations = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    in_bytes = {name.removesuffix("_quantized") for name, kind in kinds.items()
                if kind == onnx.TensorProto.INT8 and name.startswith("w") and name.endswith("_quantized")}  # fmt: skip
    assert in_bytes == {f"w{k}" for k in range(float_first, 6)}
    assert "outside" in kinds and kinds["outside"] == onnx.TensorProto.FLOAT
    # OpenVINO multiplies signed activations in float32
    assert {kind for name, kind in kinds.items() if name in activations} == {onnx.TensorProto.UINT8}
    whole, eighth = (ort.InferenceSession(str(file)).run(None, inputs[0])[0] for file in (net, target))
    np.testing.assert_allclose(whole, eighth, atol=0.1 * np.abs(whole).max())
    assert not np.array_equal(whole, eighth)
    assert sorted(path.name for path in net.parent.iterdir()) == ["int8.onnx", "net.onnx"]


def made_set(root: Path, count: int) -> dict[str, Any]:
    """A COCO set of `count` small photographs, and its data config."""
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    images = [{"id": k + 1, "file_name": f"{k:03d}.png", "height": 8, "width": 8} for k in range(count)]
    for image in images:
        Image.new("RGB", (8, 8)).save(root / "train" / str(image["file_name"]))
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "bolt"}]}
    (root / "annotations" / "train.json").write_text(json.dumps(content))
    return {"root": str(root), "format": "auto", "train": "auto", "val": None, "test": None}


def test_calibration_takes_the_same_few_training_pictures_each_time(tmp_path: Path) -> None:
    data = made_set(tmp_path / "set", COUNT + 20)
    chosen = calibration_pictures(data)
    assert len(set(chosen)) == COUNT and all(path.is_file() for path in chosen)
    assert chosen == calibration_pictures(data)
    assert chosen != sorted(chosen), "not the first ones, which may all be of one scene"
    assert len(calibration_pictures(made_set(tmp_path / "small", 3))) == 3


def test_calibration_leaves_out_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    data, folder = made_set(tmp_path / "set", 6), tmp_path / "set" / "train"
    (folder / "000.png").unlink()
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:40])
    assert {path.name for path in calibration_pictures(data)} == {f"00{k}.png" for k in (2, 3, 4, 5)}
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"none of the 6 in .* can be read; add pictures=FOLDER"):
        calibration_pictures(data)


def test_others_are_calibrated_on_in_the_place_of_missing_pictures(tmp_path: Path) -> None:
    data = made_set(tmp_path / "set", COUNT + 5)
    missing = calibration_pictures(data)[:3]
    for path in missing:
        path.unlink()
    chosen = calibration_pictures(data)
    assert len(set(chosen)) == COUNT and not set(chosen) & set(missing)


@pytest.mark.parametrize("data", [None, {"root": "gone", "format": "auto", "train": "auto"}])
def test_without_the_training_pictures_the_setting_that_names_others_is_said(data: dict[str, Any] | None) -> None:
    with pytest.raises(ConfigError, match="add pictures=FOLDER"):
        calibration_pictures(data)


def test_the_training_pictures_of_a_strangers_checkpoint_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str) -> None:
        raise AssertionError(f"{address} is fetched")

    monkeypatch.setattr(remote, "Remote", refuse)
    with pytest.raises(ConfigError, match="add pictures=FOLDER"):
        calibration_pictures({"root": "https://host/shards", "format": "litdata", "train": "auto"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned to find shapes."""
    folder = tmp_path_factory.mktemp("trained")
    words = ["experiment=quickstart", f"data.root={folder / 'shapes'}", "data.make.train=200", "data.make.val=60",
             "data.make.test=60", "trainer.max_minutes=null", "trainer.max_steps=150", "data.batch_size=8",
             "optim.warmup_steps=20", "data.test=null", f"run_folder={folder / 'run'}"]  # fmt: skip
    with unchecked():
        assert main(["train", *words]) == 0
    return folder / "run"


@pytest.mark.slow
def test_int8_finds_shapes_as_float_does_in_less_than_half_of_the_bytes(trained: Path, tmp_path: Path) -> None:
    with traced_once():
        for form, runtime in (("onnx", "onnxruntime"), ("openvino", "openvino")):  # one test: one process trains
            pytest.importorskip(runtime)
            (tmp_path / form).mkdir()
            finds_as_float_does(load_checkpoint(trained), form, tmp_path / form)


def finds_as_float_does(detector: Detector, form: str, folder: Path) -> None:
    scenes = [draw_scene(1, "train", index, 128).image for index in range(30)]
    unseen = [draw_scene(1, "val", index, 128).image for index in range(20)]
    sizes = {}
    for precision in ("fp32", "int8"):
        output = folder / (f"{precision}.onnx" if form == "onnx" else precision)
        with unchecked():
            (agreement,) = export_detector(detector, output, Choice(form, precision), pictures=scenes)
        sizes[precision] = sum(file.stat().st_size for file in ([output] if output.is_file() else output.iterdir()))
    assert agreement.holds
    assert sizes["int8"] < 0.5 * sizes["fp32"]
    exported = load(output)
    assert exported.description.precision == "int8"  # type: ignore[union-attr]
    assert compare(detector, exported, unseen, TOLERANCES["int8"], 100).holds
    counts = [sum(len(each.detect(image)) for image in unseen) for each in (detector, exported)]
    assert counts[0] > 20
    assert counts[1] == pytest.approx(counts[0], rel=0.15)


def test_more_layers_stay_in_floating_point_until_the_two_agree(
    tmp_path: Path, own: Any, traced: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def noted(source: Path, target: Path, inputs: Any, float_first: int) -> None:
        tried.append(float_first)
        target.write_bytes(source.read_bytes())

    class Disagrees:
        holds = False

    monkeypatch.setattr(export_module, "quantise", noted)
    monkeypatch.setattr(export_module, "write_onnx", lambda model, description, path: path.write_bytes(b"file"))
    monkeypatch.setattr(export_module, "open_exported", lambda path: None)
    monkeypatch.setattr(export_module, "_compared", lambda *_: [Disagrees()])
    with pytest.raises(UserError, match="does not find what the checkpoint finds"):
        export_detector(own, tmp_path / "a.onnx", Choice("onnx", "int8"), pictures=[])
    assert tried == list(export_module.FLOAT_FIRST)
    assert list(tmp_path.iterdir()) == []
