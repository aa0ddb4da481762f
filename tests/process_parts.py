"""Trainings of several processes, each with a fault of its own: `python process_parts.py train WORDS`.

The variable FAULTS is JSON: `{rank: {fault: value}}`. The faults are described beside their names in `prepare`.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fork_server

HERE = Path(__file__).resolve()


def environment(**more: str) -> dict[str, str]:
    """That of a process which starts a training: no launcher's variables but those in `more`."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("SLURM", "TORCHELASTIC", "SUBMITIT", "FAULTS"))
            and name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}  # fmt: skip
    paths = f"{HERE.parent}{os.pathsep}{HERE.parents[1]}"
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **more}


def start(
    words: Sequence[str], faults: Mapping[int, Mapping[str, Any]] | None = None, **more: str
) -> fork_server.Process:
    """Start `detr-mini train WORDS`; its standard output and error come together."""
    return fork_server.start([str(HERE), "train", *words], environment(FAULTS=json.dumps(faults or {}), **more))


def launcher(kind: str, world: int, port: int) -> list[dict[str, str]]:
    """The variables that torchrun or srun gives to each of `world` processes on one machine."""
    if kind == "torchrun":
        return [
            {"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
             "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
            for r in range(world)
        ]  # fmt: skip
    return [
        {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": str(world), "SLURM_NNODES": "1",
         "SLURM_NTASKS_PER_NODE": str(world), "SLURM_PROCID": str(r), "SLURM_LOCALID": str(r), "SLURM_NODEID": "0",
         "SLURM_STEP_ID": "0", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(port)}
        for r in range(world)
    ]  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def results(
    processes: Sequence[fork_server.Process | subprocess.Popen[str]], seconds: float = 120
) -> list[tuple[int, str]]:
    """Exit status and output of each process; all are killed where one takes longer than `seconds`."""
    deadline, found = time.monotonic() + seconds, []
    try:
        for process in processes:
            output, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            found.append((process.returncode, output))
    finally:
        for process in processes:
            process.kill()
    return found


def prepare(faults: dict[str, Any]) -> None:
    """Make this process have these faults."""
    from detr_mini.training import callbacks
    from detr_mini.training.task import DetectionTask

    step = DetectionTask.training_step
    steps = 0

    def faulty(self: DetectionTask, batch: Any, batch_idx: int) -> Any:
        nonlocal steps
        steps += 1
        time.sleep(faults.get("sleep", 0))  # seconds of each step
        if steps == faults.get("at"):
            if "signal" in faults:
                os.kill(os.getpid(), getattr(signal, faults["signal"]))
            if "error" in faults:
                from detr_mini.errors import DataError

                raise DataError(faults["error"])
            if "bug" in faults:
                raise ZeroDivisionError(faults["bug"])
        return step(self, batch, batch_idx)

    DetectionTask.training_step = faulty  # type: ignore[method-assign]
    if "full" in faults:  # the checkpoint that finds no room

        def half(self: Any, path: Path, *words: Any, **named: Any) -> None:
            faults["full"] -= 1
            if faults["full"] == 0:
                Path(path).write_bytes(b"half a checkpoint")
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            save(self, path, *words, **named)

        import pytorch_lightning as pl

        save = pl.Trainer.save_checkpoint
        pl.Trainer.save_checkpoint = half  # type: ignore[method-assign]
    if "clock" in faults:  # how many times as fast as others' it runs
        begun = time.monotonic()
        own = time.monotonic  # `callbacks` also asks how long a step takes, which decides nothing
        fast = SimpleNamespace(
            monotonic=lambda: begun + faults["clock"] * (own() - begun), perf_counter=time.perf_counter
        )
        callbacks.time = fast  # type: ignore[assignment]
    if "weights" in faults:  # a folder for the weights after the last step

        def keep(self: DetectionTask) -> None:
            import torch

            torch.save(self.model.state_dict(), Path(faults["weights"]) / f"{self.global_rank}.pt")

        DetectionTask.on_train_end = keep  # type: ignore[method-assign]
    if "sigterm" in faults:  # a mistake where Lightning asks all processes whether one got a signal
        from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

        def asked(self: Any) -> None:
            raise AssertionError("the processes waited for each other before a batch")

        _TrainingEpochLoop._broadcast_sigterm_tensor = asked  # type: ignore[method-assign]
    if "sent" in faults:  # a folder for what DDP sends beside gradients
        from torch.nn.parallel import DistributedDataParallel

        sync, counts = DistributedDataParallel._sync_buffers, {"broadcasts": 0}

        def count(self: DistributedDataParallel) -> None:
            counts["broadcasts"] += 1
            sync(self)

        def write(self: DetectionTask, *words: Any) -> None:
            wrapped: Any = self.trainer.strategy.model
            found = {"buffers": len([*wrapped.module.buffers()]), "bucket_view": wrapped.gradient_as_bucket_view}
            (Path(faults["sent"]) / f"sent_{self.global_rank}.json").write_text(json.dumps(found | counts))

        DistributedDataParallel._sync_buffers = count  # type: ignore[method-assign]
        DetectionTask.on_train_epoch_end = write  # type: ignore[method-assign]


if __name__ == "__main__":
    own = json.loads(os.environ.get("FAULTS", "{}"))
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    prepare({**own.get("all", {}), **own.get(rank, {})})
    from detr_mini.cli import main

    sys.exit(main(sys.argv[1:]))
