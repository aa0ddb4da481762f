"""`compare` reads run folders and gives a verdict; what cannot be compared gives one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from data_parts import write_coco
from detr_mini.checking import pixels
from detr_mini.cli import main
from detr_mini.errors import DataError, UserError
from detr_mini.evaluation.comparison.runs import Run, labels, read_runs, short_names
from detr_mini.evaluation.comparison.runs import data_of as module_of
from detr_mini.formats import annotation_cache
from detr_mini.models.build import build_part
from detr_mini.scenes.rendering import SHAPES
from detr_mini.shards import remote
from detr_mini.verbs import compare as verb
from detr_mini.verbs.compare import compare
from run_parts import data_of, write_run


@pytest.fixture(scope="module")
def runs(scenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recipes, two seeds each; one misplaces its boxes."""
    sweep = tmp_path_factory.mktemp("sweep")
    for name, noise, lr in (("good", 0.02, 0.02), ("bad", 0.25, 0.01)):
        for seed in (0, 1):
            write_run(sweep / f"{name}{seed}", scenes_root, noise, seed, lr=lr)
    return sweep


def config(runs: list[Path] | Path, output: Path) -> DictConfig:
    said = str(runs) if isinstance(runs, Path) else [str(run) for run in runs]
    return OmegaConf.create({"runs": said, "output": str(output), "rounds": 300, "level": 0.05, "seed": 0})


def test_two_runs_get_a_verdict_and_its_files(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = compare(config([runs / "bad0", runs / "good0"], tmp_path / "out"))
    content = json.loads((folder / "compare.json").read_text())
    whole = next(row for row in content["numbers"] if row["name"] == "AP")
    assert whole["real"]
    assert whole["difference"] > 0.2
    assert content["comparisons"] == len(content["numbers"])
    for name in ("compare.png", "compare.txt"):
        assert (folder / name).stat().st_size > 0
    assert "Real: AP +" in " ".join(capsys.readouterr().out.split())


def test_a_run_does_not_differ_from_itself(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = compare(config([runs / "good0", runs / "good0"], tmp_path / "out"))
    assert not any(row["real"] for row in json.loads((folder / "compare.json").read_text())["numbers"])
    assert "None is real" in " ".join(capsys.readouterr().out.split())


def test_a_sweep_gives_mean_and_spread_of_each_recipe(runs: Path, tmp_path: Path) -> None:
    folder = compare(config(runs, tmp_path / "out"))
    content = json.loads((folder / "compare.json").read_text())
    assert [row["recipe"] for row in content["recipes"]] == ["optim.lr=0.02", "optim.lr=0.01"]  # the better first
    for row, name in zip(content["recipes"], ("good", "bad"), strict=True):
        values = [json.loads((runs / f"{name}{seed}" / "metrics.json").read_text())["AP"] for seed in (0, 1)]
        assert row["AP"] == pytest.approx(np.mean(values))
        assert row["AP_spread"] == pytest.approx(np.std(values, ddof=1))
    assert len(content["pairs"]) == 6
    real = {
        tuple(sorted((Path(p["first"]).name[:-1], Path(p["second"]).name[:-1]))) for p in content["pairs"] if p["real"]
    }
    assert real == {("bad", "good")}
    assert (folder / "compare.png").stat().st_size > 0


def test_runs_of_different_data_are_refused_in_a_sentence(
    runs: Path, scenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_run(tmp_path / "other", scenes_root, 0.1, split="test")
    with pytest.raises(DataError, match="different data"):
        compare(config([runs / "good0", other], tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert main(["compare", f"runs=[{runs / 'good0'},{other}]", f"output={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("detr-mini: ")
    assert error.count("\n") == 1


def test_runs_that_give_categories_other_ids_are_compared_by_name(scenes_root: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes_root, there := tmp_path / "scenes")
    for file in (there / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        for record in (*content["categories"], *content["annotations"]):
            key = "id" if "name" in record else "category_id"
            record[key] = len(SHAPES) + 2 - record[key]  # most are ids of other categories here
        file.write_text(json.dumps(content))
    first, second = (write_run(tmp_path / name, root, 0.1) for name, root in (("a", scenes_root), ("b", there)))
    for runs in ([first, second], [second, first]):
        folder = compare(config(runs, tmp_path / f"of-{runs[0].name}"))
        metrics = json.loads((first / "metrics.json").read_text())
        numbers = json.loads((folder / "compare.json").read_text())["numbers"]
        assert {f"AP/{name}" for name in SHAPES if metrics[f"AP/{name}"] is not None} < {row["name"] for row in numbers}
        for row in numbers:
            assert (row["first"], row["second"]) == pytest.approx([metrics[row["name"]]] * 2)


def test_runs_of_other_categories_are_refused_with_a_command(runs: Path, scenes_root: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", scenes_root, 0.1)
    content = OmegaConf.load(other / "config.yaml")
    content.subset = {"categories": list(SHAPES)[:5]}
    OmegaConf.save(content, other / "config.yaml")
    with pytest.raises(DataError, match=r"other categories: 6 and 5, 5 in common.*'subset\.categories=\[\.\.\.\]'"):
        compare(config([runs / "good0", other], tmp_path / "out"))


def test_the_same_images_with_other_boxes_are_different_data(runs: Path, scenes_root: Path, tmp_path: Path) -> None:
    moved = tmp_path / "scenes"
    shutil.copytree(scenes_root, moved)
    file = moved / "annotations" / "val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] *= 0.5
    file.write_text(json.dumps(content))
    other = write_run(tmp_path / "other", moved, 0.1)
    with pytest.raises(DataError, match="other boxes"):
        compare(config([runs / "good0", other], tmp_path / "out"))


def test_the_same_data_in_another_folder_are_the_same(runs: Path, scenes_root: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes_root, tmp_path / "copy")
    other = write_run(tmp_path / "other", tmp_path / "copy", 0.02, seed=3)
    assert compare(config([runs / "good0", other], tmp_path / "out")).is_dir()


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda run: (run / "predictions.json").unlink(), "no predictions.json"),
        (lambda run: (run / "predictions.json").write_text("[{"), "not valid JSON"),
        (lambda run: (run / "config.yaml").write_text("a: 1"), "no data section"),
        (lambda run: shutil.rmtree(run), "no folder"),
        (lambda run: (run / "metrics.json").unlink(), "no finished run"),
    ],
)
def test_a_folder_that_is_not_a_finished_run_is_named(spoil, part: str, runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "good0", run)
    spoil(run)
    with pytest.raises(UserError, match=part) as caught:
        compare(config([runs / "good1", run], tmp_path / "out"))
    assert str(run) in str(caught.value)


def test_a_single_run_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only run"):
        compare(config([runs / "good0"], tmp_path / "out"))


def test_runs_are_labelled_by_the_classes_they_build_differently(runs: Path) -> None:
    first, second, *_ = read_runs([runs])
    first.config["model"] = {"_target_": "detr_mini.models.MiniDETR", "dim": 64}
    second.config["model"] = {"_target_": "detr_mini.models.DETR", "layers": 3}
    first.config["optim"] = second.config["optim"] = {"lr": 1}
    assert labels([first, second]) == ["model=MiniDETR", "model=DETR"]


def with_seeds(*configs: dict) -> list[Run]:
    """Two runs of each config, with two seeds."""
    return [Run(Path(f"{k}-{seed}"), {**c, "seed": seed}, {}) for k, c in enumerate(configs) for seed in (0, 1)]


def test_only_runs_of_the_same_settings_share_a_label() -> None:
    mini = {"_target_": "detr_mini.models.MiniDETR"}
    models = [{**mini, "dim": 64}, {**mini, "dim": 128}, {"_target_": "detr_mini.models.DETR", "layers": 3}]
    assert labels(with_seeds(*({"model": model} for model in models)))[::2] == [
        "model=MiniDETR, model.dim=64", "model=MiniDETR, model.dim=128", "model=DETR"]  # fmt: skip
    many = [{"optim": dict.fromkeys("abcde", value)} for value in (1, 2)]
    last = {"optim": {**many[0]["optim"], "e": 3}}
    found = labels(with_seeds(*many, last))
    assert found[::2] == found[1::2], "seeds of one recipe"
    assert found[::2] == [
        "optim.a=1, optim.b=1, optim.c=1, optim.d=1, ... (1)", "optim.a=2, optim.b=2, optim.c=2, optim.d=2, ...",
        "optim.a=1, optim.b=1, optim.c=1, optim.d=1, ... (2)"]  # fmt: skip


@pytest.mark.parametrize("content", ["[]", "{}", '{"runs": [{}]}', '{"runs": 3}', "{"])
def test_a_file_that_no_sweep_wrote_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=r"sweep\.json (was not written by a sweep; move it|is not valid JSON)"):
        labels([Run(tmp_path / name, {}, {}) for name in "ab"])


def test_what_the_command_line_named_makes_no_recipe() -> None:
    first, second = with_seeds({"name": "made", "optim": {"lr": 1}})
    second.config["explicit"], second.config["logger"] = ["optim.lr"], {"csv": None}
    assert labels([first, second]) == ["made", "made"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [(["x/a", "x/b"], ["a", "b"]), (["x/a/seed0", "x/b/seed0"], ["a/seed0", "b/seed0"]), (["x/a", "x/a"], ["a", "a"]),
     (["x/a", "y/a", "y/b"], ["x/a", "y/a", "y/b"]), (["x/a/seed0", "y/a/seed0"], ["x/a/seed0", "y/a/seed0"])],
)  # fmt: skip
def test_names_have_as_many_folders_as_keep_runs_apart(paths: list[str], names: list[str], tmp_path: Path) -> None:
    assert short_names([tmp_path / path for path in paths]) == names


def test_runs_that_counted_other_numbers_of_detections_are_refused(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs / "bad0", other)
    metrics = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps({**metrics, "detection_limit": 300}))
    with pytest.raises(DataError, match=r"with 100 and 300 detections of each image .*detection_limit=300"):
        compare(config([runs / "good0", other], tmp_path / "out"))


def changed(run: Path, **data: object) -> Path:
    """The run with other data settings."""
    content = OmegaConf.load(run / "config.yaml")
    content.data.update(data)
    OmegaConf.save(content, run / "config.yaml")
    return run


def test_a_strangers_run_writes_nowhere(
    scenes_root: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_cache, "SMALLEST", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    cache, made = tmp_path / "cache", tmp_path / "made"
    first = changed(write_run(tmp_path / "first", scenes_root, 0.1), annotation_cache=str(cache))
    assert compare(config([first, runs / "good0"], tmp_path / "out")).is_dir()
    assert not cache.exists() and (tmp_path / "own").exists()
    scenes = {"train": 2, "val": 2, "test": 2, "seed": 0, "size": 64, "processes": 1}
    second = changed(write_run(tmp_path / "second", scenes_root, 0.1), root=str(made), make=scenes)
    with pytest.raises(UserError):
        compare(config([second, runs / "good0"], tmp_path / "out2"))
    assert not made.exists()


def test_no_captions_are_read_or_made_to_compare_runs(scenes_root: Path, runs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    words = {"names": {}, "complete": "all", "folder": str(elsewhere)}
    captions = {"train": "made", "val": "val.json", "test": "none.json"}
    run = changed(write_run(tmp_path / "run", scenes_root, 0.1), _target_="detr_mini.captions.CaptionData",
                  captions=captions, refer=words, tokenizer={"kind": "words", "size": 500},
                  categories_share=0.1, kinds={"chain": 0})  # fmt: skip
    assert compare(config([run, runs / "good0"], tmp_path / "out")).is_dir()
    assert not elsewhere.exists() and not (scenes_root / "val.json").exists()


def test_a_strangers_run_fetches_nothing(
    scenes_root: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: str) -> None:
        raise AssertionError(f"{address} is fetched")

    monkeypatch.setattr(remote, "Remote", refuse)
    run = changed(write_run(tmp_path / "run", scenes_root, 0.1), root="https://host/shards", shard_cache=str(tmp_path))
    with pytest.raises(DataError, match=r"data at https://host/shards, and nothing is fetched .*data\.root="):
        compare(config([run, runs / "good0"], tmp_path / "out"))


def test_a_detector_is_measured_on_a_runs_data_without_its_folders(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = changed(write_run(tmp_path / "run", scenes_root, 0.1), annotation_cache=str(tmp_path), make={"train": 2})
    (tmp_path / "other.ckpt").touch()
    seen: list[DictConfig] = []

    def evaluate(settings: DictConfig) -> Path:
        seen.append(settings)
        return run

    monkeypatch.setattr(verb, "evaluate", evaluate)
    compare(config([run, tmp_path / "other.ckpt"], tmp_path / "out"))
    (settings,) = seen
    assert settings.data.root == str(scenes_root) and settings.data.make is None
    assert "annotation_cache" not in settings.data


def test_a_run_that_has_checked_its_images_is_read_without_decoding_them(
    scenes_root: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an image is decoded")

    monkeypatch.setattr(pixels, "decoded", refuse)
    run = changed(write_run(tmp_path / "run", scenes_root, 0.02, seed=5), check="stop")
    assert compare(config([run, runs / "good0"], tmp_path / "out")).is_dir()
    with pytest.raises(AssertionError, match="an image is decoded"):
        compare(config([changed(run, check="fix"), runs / "good0"], tmp_path / "out2"))


@pytest.mark.parametrize("how", ["stop", "fix", None])
def test_a_split_with_an_image_listed_twice_is_read_as_its_run_has_read_it(how: str | None, tmp_path: Path) -> None:
    box = {"bbox": [2, 3, 20, 30]}
    twice = [{"id": 11}, {"id": 12}, {"id": 13, "file_name": "11.png"}]
    write_coco(tmp_path, "train", annotations=[{**box, "image_id": k} for k in (1, 2)])
    write_coco(tmp_path, "val", images=twice, annotations=[{**box, "image_id": k} for k in (11, 12)])
    settings = {**data_of(tmp_path), "test": None, "check": how}
    in_training = build_part("data", {**settings, "mean": [0.0] * 3, "std": [1.0] * 3, "stride": 1, "seed": 0})
    again = module_of(settings)
    for data in (in_training, again):
        data.setup("validate")
    assert again.val_set.truth == in_training.val_set.truth
    assert again.val_set.image_ids == ((11, 12) if how else (11, 12, 13))
