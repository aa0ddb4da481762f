"""Training from shards: the same images and targets as from the folder, from a disk or an address, and their faults."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detr_mini.data.dataset import DetectionDataset
from detr_mini.data.module import DetectionData
from detr_mini.data.samplers import Key
from detr_mini.errors import ConfigError, DataError, UserError
from detr_mini.formats import annotation_cache, coco
from detr_mini.formats.discover import Source
from detr_mini.formats.licences import sources_of
from detr_mini.formats.split import CocoSet
from detr_mini.shards import remote
from detr_mini.shards.index import INDEX
from detr_mini.shards.remote import Remote, local_folder
from detr_mini.shards.store import ShardStore, compare_checksums
from shards_parts import AUTO, KINDS, served, write_kinds, write_shards

HOW: dict[str, Any] = {"size": 64, "mean": [0.5] * 3, "std": [0.25] * 3, "stride": 16, "seed": 0, "batch_size": 2}
SMALL = 6000 / 2**20
"""Megabytes of a shard, so that five images take several."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_kinds(write_kinds(tmp_path / "photos"), "val")


@pytest.fixture
def shards(folder: Path, tmp_path: Path) -> Path:
    write_shards(folder, tmp_path / "shards", megabytes=SMALL)
    return tmp_path / "shards"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.01))


def data(root: Path | str, **how: Any) -> DetectionData:
    found = DetectionData(root=root, **{**AUTO, **HOW, **how})
    found.setup("fit")
    return found


def same_sets(one: CocoSet, other: CocoSet) -> None:
    assert one.image_ids == other.image_ids and one.categories == other.categories
    for name in ("boxes_xywh", "labels", "is_crowd", "area", "first"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(one.records.sizes, other.records.sizes)
    for mine, theirs in zip(one.records, other.records, strict=True):
        assert mine.file_name == theirs.file_name
        assert torch.equal(mine.pixels(), theirs.pixels()), mine.file_name


# the same images and targets


def test_shards_hold_the_images_targets_and_sizes_of_the_folder(folder: Path, shards: Path) -> None:
    one, other = data(folder), data(shards)
    assert other.format == "litdata" and len(os.listdir(shards / "train")) > 5
    for name in ("train", "val"):
        same_sets(one.sets[name], other.sets[name])
    assert one.train_set.report.turned == other.train_set.report.turned == 1
    assert one.train_set.report.clipped == other.train_set.report.clipped == 1


def test_annotations_in_shards_are_parsed_once_on_a_machine(
    folder: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_cache, "SMALLEST", 0)
    monkeypatch.setattr(annotation_cache, "YOUNG", -60.0)  # the shards have just been written
    how = {"annotation_cache": str(tmp_path / "kept")}
    first = data(shards, **how).train_set
    monkeypatch.setattr(coco, "read_columns", lambda path: pytest.fail(f"{path} is read again"))
    again = data(shards, **how).train_set
    same_sets(first, again)
    assert all(record.encoded is not None for record in again.records)
    monkeypatch.undo()
    same_sets(again, data(folder).train_set)


def test_shards_of_other_annotations_are_not_taken_from_what_is_kept(
    folder: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_cache, "SMALLEST", 0)
    monkeypatch.setattr(annotation_cache, "YOUNG", -60.0)
    how = {"annotation_cache": str(tmp_path / "kept")}
    before = data(shards, **how).train_set
    file = folder / "annotations" / "train.json"
    content = json.loads(file.read_text())
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    shutil.rmtree(shards)
    write_shards(folder, shards, megabytes=SMALL)
    assert len(data(shards, **how).train_set.labels) == len(before.labels) - 1


def test_image_files_stand_in_the_shards_byte_for_byte(folder: Path, shards: Path) -> None:
    store = ShardStore(shards, "train")
    files = [(folder / "train" / name).read_bytes() for name in KINDS]
    assert [store.content(place) for place in range(5)] == files


@pytest.mark.parametrize("how", [
    {}, {"limit_train": 3}, {"subset": {"count": 3, "seed": 1}}, {"tiles": 32}, {"hold_out": 0.4, "val": None},
    {"cache_megabytes": 1},
])  # fmt: skip
def test_an_epoch_has_the_same_batches_as_from_the_folder(folder: Path, shards: Path, how: dict[str, Any]) -> None:
    def epoch(root: Path) -> list[tuple[tuple[int, ...], torch.Tensor, list[torch.Tensor]]]:
        loader = data(root, **how).train_dataloader()
        return [(b.image_ids, b.images, [t.boxes for t in b.targets]) for b in loader]

    for one, other in zip(epoch(folder), epoch(shards), strict=True):
        assert one[0] == other[0] and torch.equal(one[1], other[1])
        assert all(torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True))


def test_workers_read_the_same_bytes(shards: Path) -> None:
    one, other = (data(shards, workers=workers).train_dataloader() for workers in (0, 2))
    assert [b.images.sum() for b in one] == [b.images.sum() for b in other]


def test_a_store_goes_to_a_process_that_was_not_forked(shards: Path) -> None:
    store = ShardStore(shards, "train")
    first = store.content(0)
    assert pickle.loads(pickle.dumps(store)).content(0) == copy.copy(store).content(0) == first


def test_more_shards_than_open_files_are_read(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detr_mini.shards.store.OPEN", 1)
    store = ShardStore(shards, "train")
    assert len(store.split.shards) > 2
    assert [len(store.content(place)) for place in (0, 4, 1, 3, 2, 0)]
    assert len(store._handles) == 1


def test_litdata_reads_our_shards(folder: Path, shards: Path) -> None:
    litdata = pytest.importorskip("litdata", reason="comes with the extra 'dev'")
    items = litdata.StreamingDataset(str(shards / "train"), shuffle=False)
    assert len(items) == 5
    for place, name in enumerate(KINDS):
        item = items[place]
        record = json.loads(item["record"])
        assert bytes(item["image"]) == (folder / "train" / name).read_bytes() and record["file_name"] == name
    assert json.loads(items[1]["record"])["annotations"][0]["category"] == "washer"


def test_coco_keeps_its_licences_and_outlines(folder: Path, tmp_path: Path) -> None:
    path = folder / "annotations" / "train.json"
    content = {**json.loads(path.read_text()), "licenses": [{"id": 1, "name": "CC0"}]}
    path.write_text(json.dumps(content))
    write_shards(folder, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "train" / "annotations.coco").read_text())
    assert kept["licenses"] == content["licenses"] and kept["categories"] == content["categories"]
    assert kept["annotations"] == content["annotations"]


def test_shards_name_the_datasets_and_licences_that_the_folder_names(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("License: CC BY 4.0\n")
    write_shards(folder, tmp_path / "out")
    with served(tmp_path / "out") as (address, _):
        for root in (tmp_path / "out", local_folder(address, tmp_path / "cache")):
            assert sources_of(root, 5) == sources_of(folder, 5)
    assert sources_of(folder, 5) == [{"name": "photos", "images": 5, "licence": "CC BY 4.0"}]


# writing


def test_a_shard_has_at_most_its_megabytes_but_one_image(shards: Path) -> None:
    sizes = [path.stat().st_size for path in (shards / "train").glob("*.bin")]
    images = ShardStore(shards, "train").column("bytes")
    assert all(size <= SMALL * 2**20 or size < max(images) + 1000 for size in sizes) and len(sizes) > 2


def test_a_folder_that_is_there_is_refused_and_what_is_broken_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there exists already; choose a new folder"):
        write_shards(folder, tmp_path / "there")
    photo = folder / "train" / KINDS[1]
    photo.write_bytes(photo.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"photo.jpg cannot be decoded .*; the file may be cut off"):
        write_shards(folder, tmp_path / "out")
    photo.unlink()
    with pytest.raises(DataError, match=r"there is no image file .*photo.jpg"):
        write_shards(folder, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["photos", "there"]


def test_a_photo_with_data_behind_its_end_is_written(folder: Path, tmp_path: Path) -> None:
    photo = folder / "train" / KINDS[1]
    photo.write_bytes(photo.read_bytes() + b"ftypmp42" * 1000)  # telephones put a film there
    write_shards(folder, tmp_path / "out")
    assert ShardStore(tmp_path / "out", "train").content(1) == photo.read_bytes()


def test_some_splits_only(folder: Path, tmp_path: Path) -> None:
    done = write_shards(folder, tmp_path / "out", splits=["val"])
    assert done.images == {"val": 5} and sorted(os.listdir(tmp_path / "out")) == ["SOURCES.json", "shards.json", "val"]
    with pytest.raises(ConfigError, match=r"split names 'vall'; did you mean 'val'"):
        write_shards(folder, tmp_path / "more", splits=["vall"])
    for megabytes in (0, 4096):
        with pytest.raises(ConfigError, match=f"shard_megabytes is {megabytes}; it must be above 0 and at most 4095"):
            write_shards(folder, tmp_path / "more", megabytes=megabytes)


# faults


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def _first(shards: Path) -> Path:
    return shards / "train" / "chunk-0-0.bin"


HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (lambda root: _first(root).unlink(), rf"there is no .*chunk-0-0.bin on the host {HOST}; copy it again"),
        (lambda root: _cut(_first(root)), r"chunk-0-0.bin has [\d,]+ bytes instead of [\d,]+: it was cut off"),
        (lambda root: _changed(root / "train" / "annotations.coco"), r"annotations.coco has changed since"),
        (lambda root: _changed(root / "train" / "table.npy"), r"table.npy has changed since it was written"),
        (lambda root: _cut(root / INDEX), r"shards.json cannot be read .*it may be cut off"),
    ],
)
def test_a_file_that_is_missing_cut_or_changed_is_found_when_it_is_opened(
    shards: Path, fault: Callable[[Path], Any], sentence: str
) -> None:
    fault(shards)
    with pytest.raises(DataError, match=sentence) as error:
        data(shards)
    assert "detr-mini data shard" in str(error.value)


def test_a_file_of_that_name_that_another_program_wrote_is_no_index(folder: Path, shards: Path) -> None:
    (shards / INDEX).write_text("[]")
    with pytest.raises(DataError, match=r"shards.json cannot be read \(it is not written by 'detr-mini data shard'"):
        data(shards, format="litdata")
    (folder / INDEX).write_text("[]")
    assert data(folder).format == "coco"


def test_an_image_that_has_changed_is_found_when_it_is_read_and_by_the_check(shards: Path) -> None:
    store = ShardStore(shards, "train")
    path = _first(shards)
    content = bytearray(path.read_bytes())
    content[int(store.column("offset")[0])] ^= 1
    path.write_bytes(bytes(content))
    source = store.index.source
    with pytest.raises(
        DataError, match=rf"image 2 in .*chunk-0-0.bin has changed .*data.root={source} output={shards}"
    ):
        data(shards).train_set.records[0].pixels()
    with pytest.raises(DataError, match=r"image 2 in .*chunk-0-0.bin has changed"):  # and out of a worker
        list(data(shards, workers=1).train_dataloader())


def test_a_shard_that_is_cut_while_it_is_read_gives_a_sentence(shards: Path) -> None:
    store = ShardStore(shards, "train")
    store.content(0)
    os.truncate(_first(shards), 30)
    with pytest.raises(DataError, match="has changed since it was written"):
        store.content(0)


def test_an_index_of_another_version_is_refused(shards: Path) -> None:
    content = json.loads((shards / INDEX).read_text())
    (shards / INDEX).write_text(json.dumps({**content, "version": 2}))
    with pytest.raises(DataError, match=r"version 2 of the shards' index, and version 1 can be read; write the shards"):
        data(shards)


@pytest.mark.parametrize("name", ["../../x", "validation", ""])
def test_an_index_names_no_split_but_train_val_and_test(shards: Path, name: str) -> None:
    content = json.loads((shards / INDEX).read_text())
    content["splits"][name] = content["splits"].pop("val")
    (shards / INDEX).write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"shards.json cannot be read \(it has the split .*; splits are train, val, test"
    ):
        data(shards)


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/passwd", "a\0b", 3])
def test_an_index_names_no_file_outside_its_folder(shards: Path, name: Any) -> None:
    content = json.loads((shards / INDEX).read_text())
    content["splits"]["train"]["shards"][0]["name"] = name
    (shards / INDEX).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"shards.json cannot be read \(the file"):
        data(shards)


def test_a_host_without_the_data_names_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"there is no folder .*gone on the host {HOST}; copy the shards to every"):
        ShardStore(tmp_path / "gone", "train")
    with pytest.raises(DataError, match=rf"there is no folder .*gone on the host {HOST}"):
        data(tmp_path / "gone", format="litdata")


def test_a_process_of_several_names_its_host_for_any_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*gone; check data.root"):
        data(tmp_path / "gone")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match=rf"there is no folder .*gone on the host {HOST}; check data.root"):
        data(tmp_path / "gone")


def test_tasks_that_need_files_name_the_folder_that_has_them(folder: Path, shards: Path) -> None:
    with pytest.raises(DataError, match=rf"needs each image as a file of its own.*data.root={folder}"):
        Source.of({"root": shards, **AUTO})
    with pytest.raises(DataError, match="needs each image as a file of its own"):
        _ = data(shards).train_set.records.paths
    with pytest.raises(ConfigError, match=r"were checked when they were written: set data.check=null"):
        data(shards, check="stop")


# an address


def test_shards_at_an_address_give_the_same_and_each_image_is_asked_for_once(
    folder: Path, shards: Path, tmp_path: Path
) -> None:
    cache = str(tmp_path / "cache")
    with served(shards) as (address, asked):
        found = data(address, shard_cache=cache)
        assert not any(path.endswith(".bin") for path in asked)
        same_sets(data(folder).train_set, found.train_set)
        first = sum(count for path, count in asked.items() if path.startswith("/train/chunk"))
        assert first == 5
        same_sets(data(folder).train_set, data(address, shard_cache=cache).train_set)
        assert sum(count for path, count in asked.items() if path.startswith("/train/chunk")) == 5
    store = found.train_set.records.in_shards
    assert store is not None and store.store.content(3) == (folder / "train" / KINDS[3]).read_bytes()  # no server now


def test_an_address_in_somebody_elses_folder_leads_nowhere(shards: Path) -> None:
    with served(shards) as (address, asked):
        (shards / "address").write_text(address)
        store = ShardStore(shards, "train")
        assert store.content(0) and not (shards / "train" / "here").exists()
        _first(shards).unlink()
        with pytest.raises(DataError, match=r"there is no .*chunk-0-0.bin"):
            ShardStore(shards, "train")
        with pytest.raises(DataError, match=r"there is no .*chunk-0-0.bin"):
            compare_checksums(shards)
        assert not asked


def test_a_copy_in_the_users_cache_is_known_in_every_process(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    with served(shards) as (address, asked):
        root = local_folder(address, None)
        monkeypatch.setattr(remote, "_addresses", {})  # as in a process that has not made it
        assert ShardStore(root, "train").content(0) == ShardStore(shards, "train").content(0)
        assert compare_checksums(root) == len(ShardStore(shards, "train").index.files)
        other = local_folder(address, tmp_path / "other")
        assert compare_checksums(other) and asked["/train/chunk-0-0.bin"] > 1


def test_workers_read_from_an_address(shards: Path, tmp_path: Path) -> None:
    with served(shards) as (address, _):
        far = data(address, shard_cache=str(tmp_path / "cache"), workers=2).train_dataloader()
        assert [b.images.sum() for b in far] == [b.images.sum() for b in data(shards).train_dataloader()]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", ["cut", 404, 503, "whole"])
def test_what_fails_once_is_tried_again_and_what_always_fails_gives_a_sentence(
    shards: Path, tmp_path: Path, fault: Any
) -> None:
    faults: dict[str, list[Any]] = {"chunk-0-0.bin": [fault], "table.npy": [fault if fault != "whole" else None]}
    with served(shards, faults) as (address, asked):
        root = local_folder(address, tmp_path / "cache")
        store = ShardStore(root, "train")
        assert store.content(0) == ShardStore(shards, "train").content(0)
        assert asked["/train/chunk-0-0.bin"] == 2
        faults["chunk-0-1.bin"] = [fault] * 9
        sentence = {404: "there is no such file", "whole": "does the server answer requests for a range"}.get(fault, "")
        place = int((store.column("shard") == 1).argmax())
        with pytest.raises(DataError, match=rf"chunk-0-1.bin cannot be read \(.*{sentence}.*\), after 3 attempts"):
            store.content(place)
        assert asked["/train/chunk-0-1.bin"] == 3


@pytest.mark.usefixtures("quick")
def test_an_address_without_shards_or_without_a_server_gives_a_sentence(tmp_path: Path) -> None:
    with served(tmp_path) as (address, _), pytest.raises(DataError, match=r"shards.json cannot be read \(there is no"):
        local_folder(address, tmp_path / "cache")
    with pytest.raises(DataError, match=r"shards.json cannot be read .* after 3 attempts; check the address"):
        local_folder(address, tmp_path / "cache")


def test_other_bytes_at_the_address_are_refused_and_in_the_copy_are_read_again(shards: Path, tmp_path: Path) -> None:
    with served(shards) as (address, asked):
        root = local_folder(address, tmp_path / "cache")
        store = ShardStore(root, "train")
        content, offset = store.content(0), int(store.column("offset")[0])
        with (root / "train" / "chunk-0-0.bin").open("r+b") as file:
            file.seek(offset)
            file.write(b"other")
        assert store.content(0) == content and asked["/train/chunk-0-0.bin"] == 2
        changed = bytearray(_first(shards).read_bytes())
        changed[offset] ^= 1
        _first(shards).write_bytes(changed)
        (root / "train" / "here").unlink()
        with pytest.raises(DataError, match=r"chunk-0-0.bin has changed since it was written.*copy the shard there"):
            ShardStore(root, "train").content(0)


def test_shards_that_were_written_again_get_a_new_copy(folder: Path, shards: Path, tmp_path: Path) -> None:
    with served(tmp_path) as (address, _):
        first = local_folder(f"{address}/shards", tmp_path / "cache")
        assert local_folder(f"{address}/shards/", tmp_path / "cache") == first
        shards.rename(tmp_path / "old")
        write_shards(folder, shards, splits=["train"])
        assert local_folder(f"{address}/shards", tmp_path / "cache") != first


def test_fsspecs_file_systems_are_read(shards: Path, tmp_path: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.put(str(shards), "/bucket/shards", recursive=True)
    store = ShardStore(local_folder("memory://bucket/shards", tmp_path / "cache"), "train")
    assert store.content(2) == ShardStore(shards, "train").content(2)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(DataError, match=r"s3:// needs packages that are not installed; .*pip install .*(shards|s3fs)"):
        local_folder("s3://bucket/shards", tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"data.root begins with nowhere://, which cannot be read"):
        local_folder("nowhere://bucket/shards", tmp_path / "cache")


def test_a_password_in_an_address_is_not_shown() -> None:
    assert Remote("https://me:secret@host/shards?token=x").shown == "https://host/shards"


def test_a_disk_without_space_for_the_copy_names_the_setting(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with served(shards) as (address, _):
        store = ShardStore(local_folder(address, tmp_path / "cache"), "train")
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(DataError, match=r"No space left on device\); make space, or set data.shard_cache"):
            store.content(0)
    (tmp_path / "file").write_text("")
    with served(shards) as (address, _), pytest.raises(DataError, match=r"set data.shard_cache to a folder"):
        local_folder(address, tmp_path / "file")


def test_a_dataset_of_shards_is_decoded_only_when_it_is_asked_for(shards: Path) -> None:
    """Opening reads no image: the sizes are in the table."""
    reads: list[int] = []
    coco = data(shards).train_set
    assert coco.records.in_shards is not None
    store = coco.records.in_shards.store
    plain = store.content
    object.__setattr__(store, "content", lambda place: (reads.append(place), plain(place))[1])
    dataset = DetectionDataset(coco, size=64, shorter_side=None, mean=HOW["mean"], std=HOW["std"])
    assert not reads
    dataset[Key(2, 0, False)]
    assert reads == [2]
