from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from data_parts import write_voc
from detr_mini.config.parts import build_part
from detr_mini.data.module import DetectionData
from detr_mini.errors import ConfigError, DataError
from detr_mini.structures import Batch, Categories

CONFIGS = Path(__file__).parents[2] / "configs" / "data"
SCENES = {split: {"images": split, "annotations": f"annotations/{split}.json"} for split in ("train", "val", "test")}
MODEL = {"mean": [0.5] * 3, "std": [0.25] * 3, "stride": 16, "seed": 0}


def scenes(root: Path, **changes: Any) -> DetectionData:
    return DetectionData(root=root, **{**SCENES, "size": 64, "batch_size": 5, **MODEL, **changes})


class Watch(pl.LightningModule):
    """Takes notes of the batches that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, tuple[int, ...], float]] = []
        self.validated: list[int] = []

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch.image_ids, float(batch.images.sum())))
        return self.weight * 1.0

    def validation_step(self, batch: Batch, index: int) -> None:
        self.validated += batch.image_ids

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(data: DetectionData, epochs: int, tmp_path: Path) -> Watch:
    watch = Watch()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        **quiet,  # type: ignore[arg-type]
    )
    trainer.fit(watch, datamodule=data)
    return watch


@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_trains_on_another_order_each_epoch(scenes_root: Path, tmp_path: Path, workers: int) -> None:
    data = scenes(scenes_root, workers=workers)
    watch = fit(data, 3, tmp_path)
    batches = data.train_batches
    assert batches is not None
    for epoch in range(3):
        batches.set_epoch(epoch)
        expected = [tuple(data.train_set.records[i].image_id for i, *_ in batch) for batch in batches]
        assert [ids for e, ids, _ in watch.seen if e == epoch] == expected
    assert watch.seen[0][1] != watch.seen[3][1]
    assert watch.validated == 3 * list(data.val_set.image_ids)


def test_the_whole_training_is_the_same_whatever_the_number_of_workers(scenes_root: Path, tmp_path: Path) -> None:
    runs = [fit(scenes(scenes_root, workers=w), 2, tmp_path).seen for w in (0, 2)]
    assert runs[0] == runs[1]


def test_training_without_val_works(scenes_root: Path, tmp_path: Path) -> None:
    assert len(fit(scenes(scenes_root, val=None), 1, tmp_path).seen) == 3


def test_setup_reads_and_reports_the_splits_it_needs(scenes_root: Path) -> None:
    data = scenes(scenes_root)
    data.setup("fit")
    assert list(data.sets) == ["train", "val"]
    assert list(data.report.splits) == ["train", "val", "test"]  # what is wrong with test is found before training
    assert data.categories is not None
    assert data.categories.names == ("circle", "square", "triangle", "star", "cross", "heart")
    data.setup("test")
    assert len(data.test_set) == 6


def test_evaluation_needs_no_training_file_where_the_categories_are_known(scenes_root: Path) -> None:
    data = scenes(scenes_root, train=None)
    names = ("heart", "cross", "star", "triangle", "square", "circle")
    data.categories = Categories(tuple(range(6)), names)
    data.setup("validate")
    assert list(data.sets) == ["val"]
    assert data.val_set.categories.names == names
    assert any("mapped by name" in notice for notice in data.report.splits["val"].notices)


def test_a_split_that_is_not_there_is_refused(scenes_root: Path) -> None:
    with pytest.raises(DataError, match=r"there is no test split in .*data\.test\.images"):
        scenes(scenes_root, test=None).setup("test")
    with pytest.raises(ConfigError, match=r"data\.val\.annotations is not set"):
        scenes(scenes_root, val={"images": "val"}).setup("fit")


@pytest.mark.parametrize(("key", "value"), [("batch_size", 0), ("workers", -1), ("size", 0), ("limit_train", 0)])
def test_numbers_that_make_no_sense_are_refused(scenes_root: Path, key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{key} is {value}"):
        scenes(scenes_root, **{key: value})


def test_the_first_images_only(scenes_root: Path) -> None:
    data = scenes(scenes_root, limit_train=8)
    data.setup("fit")
    assert data.train_set.image_ids == tuple(range(1, 9))
    assert len(data.val_set) == 8


def test_the_cache_states_its_size(scenes_root: Path) -> None:
    data = scenes(scenes_root, cache_megabytes=0.1)
    data.setup("fit")
    data.divide(0, 1)
    assert "the cache keeps 8 of 16 decoded training images, 0 MiB (limit 0.1)" in data.report.notices


def test_scenes_are_made_on_the_first_setup(tmp_path: Path) -> None:
    made = {"train": 4, "val": 2, "test": 0, "seed": 0, "size": 48, "processes": 1}
    data = scenes(tmp_path / "new", make=made, size=48)
    data.setup("fit")
    assert len(data.train_set) == 4
    assert "made 6 scenes" in data.report.notices[0]
    with pytest.raises(ConfigError, match=r"data\.make\.trian does not exist; did you mean 'train'"):
        scenes(tmp_path / "new", make={"trian": 4}).setup("fit")


def composed(name: str, **changes: Any) -> DetectionData:
    """As the training composes it: group defaults merged, the model's part added."""
    with hydra.initialize_config_dir(str(CONFIGS.parent), version_base=None):
        config = hydra.compose(overrides=[f"+data={name}"])
    OmegaConf.set_struct(config, False)
    config.data.update(changes)
    data = build_part("data", config.data, **MODEL)
    assert isinstance(data, DetectionData)
    return data


def test_the_made_scenes_config_runs(tmp_path: Path) -> None:
    made = {"train": 20, "val": 4, "test": 4, "seed": 0, "size": 64, "processes": 1}
    data = composed("shapes", root=str(tmp_path / "shapes"), make=made, size=64, batch_size=16)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (16, 3, 64, 64)
    assert not batch.has_padding


@pytest.mark.parametrize("name", ["coco", "coco_mini"])
def test_photographs_come_as_padded_batches(shared_data: Callable[[str], Path], name: str) -> None:
    data = composed(name, root=str(shared_data("coco_mini")), batch_size=4, eval_batch_size=4, workers=0)
    data.setup("fit")
    size = data.image["size"]
    for batch in (next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))):
        assert max(batch.images.shape[2:]) <= -(-size // 16) * 16
        assert batch.has_padding
        for target in batch.targets:
            assert (target.boxes >= 0).all()
            assert (target.boxes <= 1).all()


def faulty(root: Path) -> Path:
    """A VOC set with one image that is cut off in the middle of its pixels, a click for a box, a box past the edge."""
    things = [("bolt", (2, 3, 30, 39)), ("nut", (5, 6, 5, 6)), ("nut", (40, 5, 80, 39))]
    write_voc(root, {"train": dict.fromkeys("abc", things), "val": {"d": things}})
    path = root / "JPEGImages" / "b.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    return root


def voc(root: Path, **settings: Any) -> DetectionData:
    return DetectionData(
        root=root, format="auto", train="auto", val="auto", size=32, batch_size=1,
        **MODEL, **settings,
    )  # fmt: skip


def test_data_can_be_looked_at_before_training_and_stop_it_with_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"7 faults of 3 kinds in .*data\.check=fix"):
        voc(faulty(tmp_path), check="stop").setup("fit")
    shown = capsys.readouterr().out
    for kind in ("unreadable image", "box without size", "box past the edge"):
        assert shown.count(kind) == 1


def test_data_can_be_mended_as_they_are_read(tmp_path: Path) -> None:
    data = voc(faulty(tmp_path), check="mend")
    data.setup("fit")
    assert [r.file_name for r in data.train_set.records] == ["a.png", "c.png"]
    assert data.train_set.boxes_xywh.tolist() == [[1, 2, 29, 37], [39, 4, 21, 35]] * 2
    assert any("unreadable image: 1" in notice for notice in data.report.notices)
    assert len(list(data.train_dataloader())) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_broken_inside_stops_the_training_or_counts_as_empty(tmp_path: Path, workers: int) -> None:
    data = voc(faulty(tmp_path), workers=workers)
    data.setup("fit")
    with pytest.raises(DataError, match=r"b\.png cannot be decoded"):
        list(data.train_dataloader())
    data = voc(tmp_path, on_bad_image="skip")
    data.setup("fit")
    with pytest.warns(UserWarning, match=r"b\.png cannot be decoded .* counts as an empty picture"):
        batches = list(data.train_dataloader())
    assert sorted(len(batch.targets[0].boxes) for batch in batches) == [0, 2, 2]


def test_files_cut_off_are_met_before_training_and_can_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = faulty(tmp_path) / "JPEGImages" / "a.png"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"a\.png cannot be decoded .*data\.on_bad_image=skip leaves them out"):
        voc(tmp_path).setup("fit")
    assert "unreadable image" in capsys.readouterr().out  # what else is wrong stands in one table
    data = voc(tmp_path, on_bad_image="skip")
    data.setup("fit")
    assert data.train_set.report.dropped["unreadable image"] == 1


def test_a_split_without_images_is_refused(tmp_path: Path) -> None:
    (faulty(tmp_path) / "ImageSets" / "Main" / "val.txt").write_text("")
    with pytest.raises(DataError, match=r"val\.txt is empty"):
        voc(tmp_path).setup("fit")
