"""An exported detector with captions answers as its checkpoint does, and says which of its files is wrong."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from detector_parts import BACKBONE, GROUNDED, IMAGE
from detr_mini import load
from detr_mini.captions.made_dataset import ensure_captioned
from detr_mini.cli import main
from detr_mini.deploy import export as export_module
from detr_mini.deploy import onnx_file
from detr_mini.deploy.agreement import TOLERANCES, compare, made_pictures
from detr_mini.deploy.caption_files import TOKENIZER
from detr_mini.deploy.caption_network import ObjectNetwork
from detr_mini.deploy.detector import ExportedDetector
from detr_mini.errors import CheckpointError, ConfigError, UserError
from detr_mini.inference import detector as own_detector
from detr_mini.inference.detector import Detector
from detr_mini.models.build import build_model
from detr_mini.scenes.rendering import SHAPES
from detr_mini.structures import Categories
from detr_mini.text.tokenizers import WordTokenizer, lowered
from training_parts import unchecked

NAMES = Categories(tuple(range(1, len(SHAPES) + 1)), tuple(SHAPES))
WORDS = "the a small large red green blue circle square triangle star diamond left of right above below . , café"
TOKENIZER_OWN = WordTokenizer.train([WORDS] * 2)
SENTENCES = (
    "the small red circle left of the blue square", "The  SMALL star, and a zebra.", "café 中文 👍🏽", "square",
    "the large green triangle above the circle below the star right of the small diamond",
)  # fmt: skip
LISTS: tuple[Any, ...] = (["circle"], ["star", "zebra", "red square"], "circle. star.")
FORMS = {
    "onnx": ("a.onnx",),
    "openvino": ("a_openvino", "format=openvino"),
    "tensor": ("a.onnx", "input=tensor"),
    "onnx fp16": ("a.onnx", "precision=fp16"),
}
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "ask_onnx.py"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unknown word")]
Write = Callable[..., Path]


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((40, 60), (64, 64))]
    return [*noise, *made_pictures()[:3]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an untrained detector that finds phrases in nearly every sentence."""
    torch.manual_seed(0)
    model: Any = build_model(GROUNDED, BACKBONE, len(NAMES), vocabulary=len(TOKENIZER_OWN))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    config = {"model": GROUNDED, "backbone": BACKBONE}
    torch.save(
        {"state_dict": weights, "categories": NAMES.to_dict(), "image": IMAGE, "config": config, "recipe": "test",
         "tokeniser": TOKENIZER_OWN.state(), "threshold": 0.08,
         "operating_point": {"threshold": 0.025, "suppress_iou": 0.5}}, path,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def own(checkpoint: Path) -> Detector:
    return own_detector.load(checkpoint)


@pytest.fixture(scope="module")
def traced(own: Detector) -> tuple[Any, Any]:
    """Both networks as ONNX. Tracing takes most of an export's time, so it is done once."""
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(name, reason=f"the package {name} of the extra 'export' is not installed")
    model: Any = own.model
    with unchecked():
        return onnx_file._traced(ObjectNetwork(model, 100)), onnx_file.trace_captions(model)


@pytest.fixture(scope="module")
def write(checkpoint: Path, traced: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Write:
    """`write("a.onnx", "precision=fp16")`: an export by the command line, made once for the same words."""
    folder, made = tmp_path_factory.mktemp("exports"), dict[tuple[str, ...], Path]()

    def export(name: str, *words: str) -> Path:
        key = (name, *words)
        if key not in made:
            output = folder / str(len(made)) / name
            with pytest.MonkeyPatch.context() as patch:
                without_tracing(patch, traced)
                assert main(["export", f"checkpoint={checkpoint}", f"output={output}", *words]) == 0
            made[key] = output
        return made[key]

    return export


def without_tracing(patch: pytest.MonkeyPatch, traced: tuple[Any, Any]) -> None:
    patch.setattr(onnx_file, "trace", lambda model, limit: copy.deepcopy(traced[0]))
    patch.setattr(onnx_file, "trace_captions", lambda model: copy.deepcopy(traced[1]))


@pytest.mark.parametrize("form", FORMS)
def test_a_file_answers_as_its_checkpoint_does(write: Write, own: Detector, form: str) -> None:
    exported = load(write(*FORMS[form]))
    assert isinstance(exported, ExportedDetector)
    precision = "fp16" if "fp16" in form else "fp32"
    for captions, least in ((SENTENCES, 200), (LISTS, 100), ((), 40)):
        agreement = compare(own, exported, pictures(), TOLERANCES[precision], 100, captions=captions)
        assert agreement.detections > least
        assert agreement.unpaired <= (0 if precision == "fp32" else 0.05 * agreement.detections), str(agreement)
        if precision == "fp32":
            assert agreement.score_error < 1e-3, str(agreement)


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_phrases_thresholds_categories_and_limits_are_those_of_detect(write: Write, own: Detector, form: str) -> None:
    exported = load(write(*FORMS[form]))
    given, sentence = [*pictures(), pictures()[0]], SENTENCES[-1]
    ours, theirs = (each.detect(given, sentence, batch_size=4) for each in (own, exported))
    assert sum(map(len, ours)) > 0
    for some, others in zip(ours, theirs, strict=True):
        assert others.phrases == some.phrases
        assert others.names == some.names  # the category of each object
        assert others.image_size == some.image_size
        torch.testing.assert_close(others.scores, some.scores, atol=1e-3, rtol=0)
        torch.testing.assert_close(others.boxes, some.boxes, atol=1.0, rtol=0)
    assert exported.least_score(None, sentence) == own.least_score(None, sentence) == 0.08
    assert exported.least_score() == 0.025
    assert len(exported.detect(given[0], sentence, threshold=0, limit=3)) == 3
    assert len(exported.detect(given[0], [*NAMES.names], threshold=0, limit=500)) > 30  # above the file's own limit
    assert exported.categories_of(["Star", "zebra"]).names == ("Star", "zebra")
    named = exported.detect(given[0], ["Star", "zebra"], threshold=0)
    assert named.phrases == named.names and {*named.names} <= {"Star", "zebra"}
    tiled = [each.detect(given[4], ["star"], threshold=0.0, tiles=128) for each in (own, exported)]
    assert len(tiled[0]) == len(tiled[1]) > 0
    with pytest.warns(UserWarning, match="unknown word 'zebra', treated as .UNK."):
        exported.detect(given[0], "a zebra")


def test_the_tokenizer_file_gives_the_ids_of_the_checkpoint(write: Write, own: Detector) -> None:
    library = Tokenizer.from_file(str(write(*FORMS["onnx"]).with_name(TOKENIZER)))
    for sentence in SENTENCES:
        assert tuple(library.encode(sentence).ids) == own.encoded(sentence).ids
    assert tuple(library.encode("").ids) == TOKENIZER_OWN.encode(lowered("")).framed().ids


def test_both_files_say_that_they_belong_together(write: Write) -> None:
    onnx: Any = pytest.importorskip("onnx")
    path = write(*FORMS["onnx"])
    models = [onnx.load(file) for file in (path, path.with_suffix(".text.onnx"))]
    first, second = ({entry.key: entry.value for entry in model.metadata_props} for model in models)
    assert first["captions"] == second["captions"]
    said = json.loads(first["captions"])
    assert (said["max_tokens"], said["threshold"]) == (GROUNDED["text"]["max_tokens"], 0.08)  # type: ignore[index]
    assert len(said["tokenizer"]) == len(said["weights"]) == 64
    assert load(write(*FORMS["openvino"])).description.captions == load(path).description.captions  # type: ignore[union-attr]


def _copied(path: Path, folder: Path) -> Path:
    if path.is_dir():
        return Path(shutil.copytree(path, folder / path.name))
    for part in (path, path.with_suffix(".text.onnx"), path.with_name(TOKENIZER)):
        shutil.copy(part, folder / part.name)
    return folder / path.name


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_a_missing_or_foreign_part_is_named(write: Write, form: str, tmp_path: Path) -> None:
    path = _copied(write(*FORMS[form]), tmp_path)
    folder, second = (path, path / "text.xml") if path.is_dir() else (tmp_path, path.with_suffix(".text.onnx"))
    content = (folder / TOKENIZER).read_text("utf-8")
    (folder / TOKENIZER).write_text(content + " ", "utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json belongs to another export than .*put the files of one"):
        load(path)
    (folder / TOKENIZER).unlink()
    with pytest.raises(CheckpointError, match=r"turns captions into tokens, tokenizer\.json, is not beside it"):
        load(path)
    (folder / TOKENIZER).write_text(content, "utf-8")
    with pytest.raises(
        CheckpointError, match="is the second file of an export, which answers captions; give the first"
    ):
        load(second)
    second.unlink()
    with pytest.raises(CheckpointError, match=f"answers captions, {second.name}, is not beside it; copy all files"):
        load(path)


def test_a_second_file_of_other_weights_is_refused(write: Write, tmp_path: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    path = _copied(write(*FORMS["onnx"]), tmp_path)
    second = path.with_suffix(".text.onnx")
    model = onnx.load(second)
    for change, says in (({"weights": "0" * 64}, "belongs to another export"), ({"more": 1}, "is no second file")):
        changed = copy.deepcopy(model)
        for entry in changed.metadata_props:
            if entry.key == "captions":
                entry.value = json.dumps({**json.loads(entry.value), **change})
        onnx.save(changed, second)
        with pytest.raises(CheckpointError, match=says):
            load(path)
    second.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="ONNX Runtime cannot read"):
        load(path)


def test_captions_that_cannot_be_read_are_one_sentence(write: Write) -> None:
    exported: Any = load(write(*FORMS["onnx"]))
    picture = pictures()[0]
    with pytest.raises(UserError, match="the caption has 52 tokens, the model takes 40; shorten it"):
        exported.detect(picture, "red " * 50)
    with pytest.raises(UserError, match="the caption is empty"):
        exported.detect(picture, "  ")
    with pytest.raises(UserError, match="the name 'star' is given twice"):
        exported.detect(picture, ["star", "star"])
    with pytest.raises(UserError, match="a sentence speaks of the whole image"):
        exported.detect(picture, "the star", tiles=64)
    with pytest.raises(ConfigError, match="export the checkpoint again with limit=300"):
        exported.detect(picture, limit=300)


def test_files_that_disagree_are_not_left_behind(
    checkpoint: Path, traced: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    onnx: Any = pytest.importorskip("onnx")
    wrong = copy.deepcopy(traced[1])
    for tensor in wrong.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= onnx_file.HALVED:
            tensor.CopyFrom(onnx.numpy_helper.from_array(-values, tensor.name))
    without_tracing(monkeypatch, (traced[0], wrong))
    for words in ([], ["format=openvino"]):
        where = tmp_path / ("a" if words else "a.onnx")
        assert main(["export", f"checkpoint={checkpoint}", f"output={where}", *words]) == 2
        said = capsys.readouterr().err
        assert "does not find what the checkpoint finds" in said and "captions each" in said
        assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_something_else_is_not_written_over(
    checkpoint: Path, traced: tuple[Any, Any], write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    earlier = write("a.onnx").with_name("a.text.onnx")
    without_tracing(monkeypatch, traced)
    (tmp_path / TOKENIZER).write_text("mine")
    words = ["export", f"checkpoint={checkpoint}", f"output={tmp_path / 'a.onnx'}"]
    assert main(words) == 2
    assert "belongs to something else; write a.onnx into a folder of its own" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [TOKENIZER]
    (tmp_path / "a.text.onnx").write_text("mine, too")
    assert main(words) == 2
    assert "a.text.onnx is there already, and 'detr-mini export' did not write it" in capsys.readouterr().err
    shutil.copy(earlier, tmp_path / "a.text.onnx")  # of an earlier export to the same place
    monkeypatch.setattr(export_module, "_compared", lambda *_: [])
    assert main(words) == 0
    assert json.loads((tmp_path / TOKENIZER).read_text())["model"]["type"] == "WordLevel"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.text.onnx", TOKENIZER]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["output=a.pt2"], "format=torch is not there for a detector with captions (model=mini_grounded); choose "
                           "format=onnx or openvino"),
        (["output=a.onnx", "precision=int8", "pictures=p"], "precision=int8 is not there for a detector with captions "
                                                            "(model=mini_grounded); choose precision=fp32 or fp16"),
    ],
)  # fmt: skip
def test_forms_that_are_not_there_are_one_sentence(
    checkpoint: Path, words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    Image.fromarray(pictures()[0]).save(tmp_path / "p" / "a.png")
    assert main(["export", f"checkpoint={checkpoint}", *words]) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_predict_and_evaluate_take_the_files_as_a_checkpoint(
    write: Write, checkpoint: Path, form: str, tmp_path: Path
) -> None:
    root = tmp_path / "made"
    ensure_captioned(root, train=2, val=4, test=2, size=64, processes=1)
    data = ["data=shapes_captions", f"data.root={root}", "data.make=null", "resamples=0", "gallery=0"]
    found = dict[str, list[Any]]()
    for name, path in (("own", checkpoint), ("file", write(*FORMS[form]))):
        words = [f"source={root / 'val'}", f"caption={SENTENCES[-1]}", f"output={tmp_path / name}", "draw=false"]
        assert main(["predict", f"checkpoint={path}", *words]) == 0
        found[name] = [json.loads((tmp_path / name / "predictions.json").read_text())]
        for by in ("classes", "names"):
            output = tmp_path / f"{name}-{by}"
            words = [f"by={by}", "split=val", "words=shuffled", f"output={output}"]
            assert main(["evaluate", f"checkpoint={path}", *data, *words]) == 0
            found[name] += [json.loads((output / "metrics.json").read_text())]
    (records, *ours), (others, *theirs) = found["own"], found["file"]
    assert len(records) > 0
    assert [(r["image_id"], r["category_id"]) for r in others] == [(r["image_id"], r["category_id"]) for r in records]
    assert [r["score"] for r in others] == pytest.approx([r["score"] for r in records], abs=1e-3)
    for some, same in zip(ours, theirs, strict=True):
        assert same["grounding/captions"] == some["grounding/captions"] > 0
        for metric, value in some.items():
            if metric.startswith(("AP", "AR", "grounding/")) and isinstance(value, float):
                assert same[metric] == pytest.approx(value, abs=1e-3), metric


def test_the_example_needs_no_torch(write: Write, own: Detector, tmp_path: Path) -> None:
    Image.fromarray(pictures()[2]).save(tmp_path / "a.png")
    refuse = "import runpy, sys; sys.modules.update(torch=None, torchvision=None, detr_mini=None); "
    command = f"{refuse}sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    words = [sys.executable, "-c", command, str(EXAMPLE), str(write(*FORMS["onnx"])), str(tmp_path / "a.png")]
    shown = subprocess.run([*words, SENTENCES[-1]], capture_output=True, text=True, timeout=300, check=False)
    assert shown.returncode == 0, shown.stderr
    found = own.detect(tmp_path / "a.png", SENTENCES[-1])
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert [words for words, _ in lines] == list(found.phrases or ())
    assert len(lines) > 0
    numbers = torch.tensor([[float(number) for number in rest.split()] for _, rest in lines])
    torch.testing.assert_close(numbers[:, 0], found.scores, atol=2e-3, rtol=0)
    torch.testing.assert_close(numbers[:, 1:], found.boxes, atol=1.0, rtol=0)
