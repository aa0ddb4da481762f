"""The report of a run: it is complete, loads nothing, and says what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector_parts import checkpoint_of, untrained
from detr_mini.config.compose import compose
from detr_mini.config.plain import plain_dict
from detr_mini.errors import ConfigError, UserError
from detr_mini.inference.explain import explain_all
from detr_mini.pages import report as page
from detr_mini.pages import tried
from detr_mini.pages.charts import POINTS, line_chart
from detr_mini.pages.report import find_runs, write_report
from detr_mini.pages.run_reader import RunFolder
from detr_mini.pages.settings import command, in_hydra
from detr_mini.pretrained.packaged import boxed, names
from detr_mini.structures import Categories
from detr_mini.verbs.report import report
from pages_parts import References
from run_parts import write_run
from training_parts import overrides

SECTIONS = {"settings", "data", "curves", "metrics", "gallery", "errors", "worst", "confusion", "attention",
            "latency", "again"}  # fmt: skip


@pytest.fixture(scope="module")
def run(scenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose detections are a little off, with every file that a training writes."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "good", scenes_root, 0.2)
    content = json.loads((scenes_root / "annotations" / "val.json").read_text())["categories"]
    categories = Categories(tuple(c["id"] for c in content), tuple(c["name"] for c in content))
    model = untrained()
    torch.save(checkpoint_of(model), folder / "best.ckpt")
    (folder / "history.csv").write_text("step,lr,train/loss,val/AP\n10,0.1,3.5,\n20,0.05,2.5,0.25\n30,0.01,2,0.5\n")
    names = dict.fromkeys(categories.names, 5)
    split = {"images": 16, "background": 1, "boxes": 40, "per_category": names}
    (folder / "data_report.json").write_text(json.dumps({"splits": {"train": split}, "notices": ["one is <b>odd</b>"]}))
    return folder


def written(runs: list[Path], output: Path) -> str:
    size = write_report(find_runs([str(r) for r in runs]), output)
    text = output.read_text(encoding="utf-8")
    assert size == len(text.encode()) <= page.LARGEST
    return text


def test_a_report_has_every_section_and_loads_nothing(run: Path, tmp_path: Path) -> None:
    found = References(text := written([run], tmp_path / "report.html"))
    assert found.ids >= SECTIONS and 'class="missing"' not in text
    assert "script" not in found.tags and "link" not in found.tags and not found.handlers
    assert {one[:1] for one in found.loaded if not one.startswith("data:image/jpeg;base64,")} == {"#"}
    assert sum(one.startswith("data:") for one in found.loaded) > 10
    assert {one[1:] for one in found.loaded if one.startswith("#")} <= found.ids
    assert "prefers-color-scheme: dark" in text and "@media print" in text and "width=device-width" in text


def test_a_report_explains_no_more_detections_than_it_shows(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []

    def explained(*given: Any, **how: Any) -> Any:
        found = explain_all(*given, **how)
        rows.append(len(found.maps))
        return found

    monkeypatch.setattr(tried, "explain_all", explained)
    written([run], tmp_path / "report.html")
    assert rows and set(rows) == {tried.EACH}


def test_texts_of_strangers_are_escaped(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(run, own)
    evil = "<script>alert(1)</script>\"'&\u202e"
    metrics = json.loads((own / "metrics.json").read_text())
    (own / "metrics.json").write_text(json.dumps({**metrics, f"AP/{evil}": 0.5, "recipe": evil}))
    (own / "data_report.json").write_text(
        json.dumps({"splits": {evil: {"images": evil, "per_category": {evil: evil}}}, "notices": [evil]})
    )
    (own / "history.csv").write_text(f'step,"val/{evil.replace(chr(34), "")}_loss",val/AP\n1,0.3,0.2\n2,0.2,0.3\n')
    found = References(text := written([own], tmp_path / "report.html"))
    assert "&lt;script&gt;" in text and "script" not in found.tags and not found.handlers
    assert not [one for one in found.loaded if not one.startswith(("#", "data:image/jpeg"))]


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [("metrics.json", "not measured"), ("predictions.json", "no predictions.json"), ("history.csv", "no history.csv"),
     ("data_report.json", "no data_report.json"), ("best.ckpt", "no checkpoint")],
)  # fmt: skip
@pytest.mark.parametrize("how", ["gone", "broken"])
def test_a_part_that_is_missing_or_broken_is_named_and_the_others_stay(
    run: Path, tmp_path: Path, missing: str, sentence: str, how: str
) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    (own / missing).unlink()
    if how == "broken":
        (own / missing).write_bytes(b"\xff{]")
    text = written([own], tmp_path / "report.html")
    assert 'class="missing"' in text
    if how == "gone":
        assert sentence in text
    assert References(text).ids >= SECTIONS


def test_the_checkpoint_of_an_evaluation_is_its_file_or_the_packaged_weights(tmp_path: Path) -> None:
    def evaluated(checkpoint: str) -> RunFolder:
        (tmp_path / "config.yaml").write_text(f"checkpoint: {json.dumps(checkpoint)}\n")
        return RunFolder.at(tmp_path)

    for name in names():
        assert evaluated(name).checkpoint == boxed(name)
    with pytest.raises(UserError, match=r"that was evaluated, .*gone\.ckpt, is not there; run report in the folder"):
        _ = evaluated(str(tmp_path / "gone.ckpt")).checkpoint
    (tmp_path / "here.safetensors").touch()
    assert evaluated(str(tmp_path / "here.safetensors")).checkpoint == tmp_path / "here.safetensors"
    assert names()


def test_data_that_have_gone_are_said_and_the_numbers_stay(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    config = (own / "config.yaml").read_text()
    root = next(line for line in config.splitlines() if line.strip().startswith("root:"))
    (own / "config.yaml").write_text(config.replace(root, f"  root: {tmp_path / 'gone'}"))
    text = written([own], tmp_path / "report.html")
    assert text.count('class="missing"') >= 4 and "gone" in text
    assert not (tmp_path / "gone").exists()


def test_a_report_is_made_smaller_where_it_would_be_too_large(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = len(written([run], tmp_path / "report.html").encode())
    monkeypatch.setattr(page, "LARGEST", large - 1000)
    assert len(written([run], tmp_path / "report.html").encode()) < large
    monkeypatch.setattr(page, "LARGEST", 1000)
    with pytest.raises(UserError, match="more than 1,000"):
        write_report(find_runs(str(run)), tmp_path / "report.html")


def test_several_runs_or_a_folder_of_them_are_compared(scenes_root: Path, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "sweep" / name, scenes_root, noise, lr=lr)
            for name, noise, lr in (("<b>exact", 0.02, 0.1), ("rough", 0.5, 0.2))]  # fmt: skip
    assert [found.folder for found in find_runs(str(tmp_path / "sweep"))] == runs
    text = written([tmp_path / "sweep"], tmp_path / "report.html")
    assert "2 runs compared" in text
    assert text.index("&lt;b&gt;exact") < text.index("rough") and "optim.lr" in text
    assert "corrected p" in text and "no" in text
    assert "b" not in References(text.partition("<body>")[2].partition("<h2>")[0]).tags


def test_a_run_without_metrics_stays_itself_though_runs_lie_below_it(scenes_root: Path, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, scenes_root, 0.1) for name in ("whole", "stopped")]
    (runs[1] / "metrics.json").unlink()
    (runs[1] / "history.csv").touch()  # a training that was stopped
    for name in ("first", "second"):
        write_run(runs[1] / name, scenes_root, 0.4)
    text = written(runs, tmp_path / "report.html")
    assert "2 runs compared" in text and "has no metrics.json" in text


@pytest.mark.parametrize("name", ["12-images", "apples/seed0"])
def test_the_folder_of_a_benchmark_is_that_of_its_runs(scenes_root: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "benchmark"
    run = write_run(folder / name, scenes_root, 0.1)
    (folder / "config.yaml").write_text("shares: [0.1]\n")  # that of the benchmark itself
    assert [found.folder for found in find_runs(str(folder))] == [run]
    assert [found.folder for found in find_runs(str(tmp_path))] == [run]
    (folder / "history.csv").touch()  # a training, with an evaluation in its folder
    assert [found.folder for found in find_runs(str(folder))] == [folder]
    shutil.rmtree(run)
    (folder / "history.csv").unlink()
    assert [found.folder for found in find_runs(str(folder))] == [folder], "a training that has just begun"


def test_runs_of_one_name_in_different_folders_stay_apart(scenes_root: Path, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / recipe / "seed0", scenes_root, noise, lr=noise)
            for recipe, noise in (("exact", 0.02), ("rough", 0.4))]  # fmt: skip
    for run, reached in zip(runs, (0.75, 0.25), strict=True):
        (run / "history.csv").write_text(f"step,val/AP\n10,0.125\n20,{reached}\n")
    text = written(runs, tmp_path / "report.html")
    assert text.count("<polyline") == 2
    for name in ("exact/seed0", "rough/seed0"):
        assert text.count(name) >= 5, "in the table, the curves, the tests, the categories and the settings"


def test_a_folder_that_is_no_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        find_runs(str(tmp_path))
    with pytest.raises(UserError, match="there is no folder"):
        find_runs(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="run is empty"):
        report(compose("report", ["run=[]"]))
    with pytest.raises(ConfigError, match=r"ends in \.html"):
        report(compose("report", [f"run={tmp_path}", f"output={tmp_path}"]))


@pytest.mark.parametrize(
    "more",
    [(), ("optim=adamw", "seed=3"), ("model=detr", "model.queries=9"),
     ("backbone=resnet18", "augment=one_direction", "name=it's \"odd\" = [x]")],
)  # fmt: skip
def test_the_command_of_a_report_composes_the_same_config(tmp_path: Path, more: tuple[str, ...]) -> None:
    small = [word for word in overrides(tmp_path) if not (more and word.startswith(("backbone.", "model.")))]
    config = plain_dict(compose("train", [*small, *more]))
    words, changed = command(config)
    assert plain_dict(compose("train", words)) == config
    assert {"seed"} & {row.key for row in changed} == ({"seed"} if "seed=3" in more else set())


@pytest.mark.parametrize(
    "words",
    [("experiment=finetune", "data.root=photos", "data.test=null"), ("data=voc", "data.val=null"), ("data.make=null",),
     ("data=folder", "data.train.images=a", "data.train.annotations=b"), ("optim=adamw", "data.size=96", "init=auto"),
     ("criterion.class_cost._target_=detr_mini.losses.softmax_cost",),
     ("criterion.class_loss._target_=detr_mini.losses.no_object_cross_entropy", "~criterion.class_loss.gamma")],
)  # fmt: skip
def test_the_command_of_a_report_keeps_other_data_nulls_and_other_parts(words: tuple[str, ...]) -> None:
    config = plain_dict(compose("train", words))
    again, changed = command(config)
    assert {**plain_dict(compose("train", again)), "explicit": []} == {**config, "explicit": []}
    assert "explicit" not in {row.key for row in changed}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(0.001, 1) | st.text("abc '\"\\,=[]{}$:", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
)


@given(PLAIN)
def test_a_value_survives_hydras_grammar(value: object) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(f"x={in_hydra(value)}").value()
    assert _plain(parsed) == value


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return getattr(value, "text", value)


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(allow_nan=True, width=32)), max_size=600), st.booleans())
def test_every_point_of_a_chart_lies_inside_it(points: list[tuple[int, float]], log: bool) -> None:
    chart = line_chart("loss", {"a": ([x for x, _ in points], [abs(y) for _, y in points])}, "step", log=log)
    for line in () if chart is None else chart.lines:
        places = [tuple(map(float, place.split(","))) for place in line.points.split()]
        assert 0 < len(places) <= POINTS + 2
        assert all(0 <= x <= 460 and 0 <= y <= 260 for x, y in places)


def test_pictures_are_embedded_as_jpeg() -> None:
    assert page.picture_uri(Image.new("RGB", (4, 4))).startswith("data:image/jpeg;base64,/9j/")
