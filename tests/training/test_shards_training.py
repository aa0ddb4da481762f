"""A training from shards is the one from the folder, bit for bit, also resumed with other numbers of workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from detr_mini.config.compose import compose
from detr_mini.pretrained.checkpoints import read_checkpoint
from detr_mini.training.run import train
from process_parts import results, start
from shards_parts import served, write_shards
from training_parts import overrides, weights

STEPS = ("trainer.max_steps=6", "trainer.log_every_steps=1", "data.test=null", "data.val=null", "seed=3")


@pytest.fixture(scope="module")
def shards(scenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shards") / "scenes"
    write_shards(scenes_root, output, megabytes=0.01)
    assert len(list((output / "train").glob("*.bin"))) > 3
    return output


def words(root: Path | str, run: Path, *more: str) -> list[str]:
    """A training from whatever lies at `root`, with one recipe for all."""
    return overrides(Path("unused"), "data=litdata", f"data.root={root}", "data.format=auto", "data.make=null",
                     "data.workers=0", *STEPS, f"run_folder={run}", *more)  # fmt: skip


def last(run: Path) -> dict[str, torch.Tensor]:
    return weights(read_checkpoint(run / "last.ckpt"))


def same_bits(one: Path, other: Path) -> None:
    mine, theirs = last(one), last(other)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("far", [False, True])
def test_a_training_from_shards_has_the_bits_of_one_from_the_folder(
    scenes_root: Path, shards: Path, tmp_path: Path, far: bool
) -> None:
    train(compose("train", words(scenes_root, tmp_path / "folder")))
    with served(shards) as (address, asked):
        root = address if far else shards
        more = [f"data.shard_cache={tmp_path / 'cache'}", "data.workers=1"]
        train(compose("train", words(root, tmp_path / "shards", *more)))
        assert bool(asked) == far
    same_bits(tmp_path / "folder", tmp_path / "shards")


@pytest.mark.slow
def test_resumed_with_another_number_of_workers_it_ends_in_the_same_bits(shards: Path, tmp_path: Path) -> None:
    whole, stopped = words(shards, tmp_path / "whole"), words(shards, tmp_path / "run", "resume=auto")
    found = results([start(whole), start(stopped, {0: {"at": 3, "signal": "SIGUSR1"}})])
    assert [status for status, _ in found] == [0, 130], found
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 3
    ((status, output),) = results([start([*stopped, "data.workers=2"])])
    assert status == 0, output
    same_bits(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_two_processes_go_on_as_one_without_an_image_twice(shards: Path, tmp_path: Path) -> None:
    two = ("trainer=ddp", "trainer.devices=2", "trainer.threads=1", "data.batch_size=2", "resume=auto")
    run = words(shards, tmp_path / "run", *two, "trainer.max_steps=8")
    ((status, output),) = results([start(run, {1: {"at": 3, "signal": "SIGUSR1"}})])
    assert status == 130, output
    ((status, output),) = results([start([*run, "trainer.devices=1", "data.batch_size=4", "data.workers=2"])])
    assert status == 0, output
    done = read_checkpoint(tmp_path / "run" / "last.ckpt")
    assert (done["global_step"], done["progress"]["images_seen"]) == (8, 32), json.dumps(done["progress"], default=str)
