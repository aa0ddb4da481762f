"""The processes of one training, joined before anything is read or made: what the first one decides, all know."""

from __future__ import annotations

import os
import secrets
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch.distributed import PrefixStore, Store, TCPStore

from detr_mini import __version__
from detr_mini.config.changed_settings import HARMLESS, changes, is_among
from detr_mini.cpu_runtime import threads
from detr_mini.environment import own_cores
from detr_mini.errors import ConfigError, UserError, first_line, some_of
from detr_mini.training.launch import Launch, find_launch, meeting_point, start_others
from detr_mini.training.options import TrainerOptions
from detr_mini.training.watch import LOST, Watch, failed_collective

JOIN = 300.0
"""Seconds to wait for all processes at the start."""
BACKEND = "cpu:gloo,cuda:nccl"
"""For GPUs. What processes tell each other beside tensors goes through gloo and makes no GPU wait."""
T = TypeVar("T")


class Stopped(KeyboardInterrupt):
    """All processes stopped at the same step; the state is in last.ckpt."""


class Ranks:
    """The processes of a training, as one of them sees them."""

    def __init__(self, launch: Launch, watch: Watch) -> None:
        self.launch, self.watch = launch, watch

    @property
    def first(self) -> bool:
        """Whether this is the process that decides and writes."""
        return self.launch.rank == 0

    @property
    def world(self) -> int:
        return self.launch.world

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every `world`-th of the items, from this process's rank on."""
        return items if self.world == 1 else items[self.launch.rank :: self.world]

    def of_first(self, decide: Callable[[], T]) -> T:
        """What `decide()` returns in the first process. All processes call this at the same place."""
        if self.world == 1:
            return decide()
        found: list[Any] = [decide() if self.first else None]
        torch.distributed.broadcast_object_list(found, src=0)
        return cast("T", found[0])

    def of_all(self, value: T) -> list[T]:
        """The value of each process, in order of rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value)
        return found


ALONE = Ranks(Launch(), Watch())
"""A training of one process."""


@contextmanager
def joined(options: TrainerOptions, settings: Mapping[str, Any]) -> Iterator[Ranks]:
    """Join the processes of a training with these settings; start those that no launcher has started.

    Inside, a process that fails ends all others. ConfigError where the launcher's numbers, the settings or the code
    of the processes differ; nothing has been made then.
    """
    launch = find_launch(options.devices, options.num_nodes)
    watch = Watch(launch)
    ranks = Ranks(launch, watch)
    if launch.world == 1:
        yield ranks
        return
    gpu, failed = options.device_type == "cuda", False
    with _divided_machine(launch):
        try:
            if gpu and launch.local_rank < torch.cuda.device_count():  # else all would use the first one until `fit`
                torch.cuda.set_device(launch.local_rank)
            _join(launch, watch, BACKEND if gpu else "gloo", options.timeout_minutes)
            _check_same(ranks, settings)
            yield ranks
        except Stopped:
            watch.done()
            if ranks.first:
                raise
            raise SystemExit(130) from None  # the first process says so
        except BaseException as error:
            failed = True
            _fail(ranks, error)
            if failed_collective(error):
                raise UserError(LOST) from error
            raise
        else:
            watch.done()
        finally:
            if torch.distributed.is_initialized() and not (gpu and failed):  # NCCL may wait for processes that are gone
                torch.distributed.destroy_process_group()
            watch.wait_for_others()


def _join(launch: Launch, watch: Watch, backend: str, minutes: float | int) -> None:
    """Start this machine's other processes if need be, wait for all, and make the process group."""
    if launch.starter is not None:
        watch.watch_starter(launch.starter)
    store, address, port = _meet(launch)
    if launch.rank == 0:
        token = secrets.token_hex(8)
        store.set("watch", f"{watch.serve(token)} {token}")
    if launch.by is None:
        watch.processes = start_others(launch, address, port)
    store.set(f"here/{launch.rank}", "")
    here = {rank: f"here/{rank}" for rank in range(launch.world)}
    try:
        store.wait(list(here.values()), timedelta(seconds=JOIN))
    except torch.distributed.DistError:
        missing = [str(rank) for rank, key in here.items() if not store.check([key])]
        raise UserError(
            f"process {some_of(missing, 5)} of {launch.world} has not come within {JOIN:.0f} seconds; see whether all "
            f"were started, and whether they can reach {address}, port {port}"
        ) from None
    if launch.rank > 0:
        own_port, token = store.get("watch").decode().split()
        watch.connect(address, int(own_port), token)
    torch.distributed.init_process_group(
        backend, store=store, rank=launch.rank, world_size=launch.world, timeout=timedelta(minutes=minutes)
    )


def _meet(launch: Launch) -> tuple[Store, str, int]:
    """The store at which all processes meet, with its address and port; the first process keeps it."""
    wait = timedelta(seconds=JOIN)
    if launch.by is None and launch.world == launch.local_world:
        own = TCPStore("127.0.0.1", 0, None, True, wait, False)  # a free port: nobody else knows it yet
        return PrefixStore("0", own), own.host, own.port
    address, port = meeting_point(launch)
    kept_by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = TCPStore(address, port, None, launch.rank == 0 and not kept_by_launcher, wait, False)
    except torch.distributed.DistError as error:
        raise UserError(
            f"process {launch.rank} of this training cannot reach the first one at {address}, port {port} "
            f"({first_line(error)}); check MASTER_ADDR and MASTER_PORT, and whether a firewall is between them"
        ) from error
    return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store), address, port


def _check_same(ranks: Ranks, settings: Mapping[str, Any]) -> None:
    """ConfigError where a process runs other code or other settings than the first."""
    for rank, (code, other) in enumerate(ranks.of_all((_code(), dict(settings)))):
        if rank == 0:
            first_code, first = code, other
            continue
        made = {key: values for key, values in changes(first, other).items()
                if not is_among(key, (*HARMLESS, "run_folder"))}  # fmt: skip
        if made:
            key, (here, there) = next(iter(made.items()))
            raise ConfigError(
                f"process 0 has {key}={here} and process {rank} has {key}={there}; start all processes of a training "
                "with the same command"
            )
        if code != first_code:
            raise ConfigError(
                f"process {rank} runs other code than process 0 ({code[0]} and {first_code[0]}, torch {code[1]} and "
                f"{first_code[1]}); install the same version on all machines"
            )


def _code() -> tuple[str, str, int]:
    """Version of the package and of torch, and a checksum of the package's source."""
    package, checksum = Path(__file__).resolve().parents[1], 0
    for path in sorted(package.glob("**/*.py")):
        checksum = zlib.crc32(path.read_bytes(), checksum)
    return __version__, str(torch.__version__), checksum


def _fail(ranks: Ranks, error: BaseException) -> None:
    """Tell the others that this process fails, and why. Of the same failure in all, the first process speaks."""
    if failed_collective(error) or (error.__cause__ is not None and failed_collective(error.__cause__)):
        ranks.watch.wait_for_verdict()
    status, sentence = 1, f"{type(error).__name__}: {first_line(error)}" if isinstance(error, Exception) else ""
    if isinstance(error, UserError):
        status, sentence = 2, str(error)
    elif isinstance(error, KeyboardInterrupt):
        status, sentence = 130, "stopped at once"
    elif isinstance(error, OSError):
        status, sentence = 2, first_line(error)
    elif isinstance(error, SystemExit):
        sentence = f"it ended with status {error.code}"
    if not ranks.watch.report(sentence, status):
        return
    if status == 1 and isinstance(error, Exception):
        traceback.print_exception(error)
    sys.stderr.flush()
    time.sleep(0.2)
    raise SystemExit(status) from None


@contextmanager
def _divided_machine(launch: Launch) -> Iterator[None]:
    """Divide this machine's cores and memory for decoding among its processes.

    OMP_NUM_THREADS, where it is set, says how many threads each has; LOCAL_WORLD_SIZE, which not every launcher sets,
    tells `images.decoding` of the others.
    """
    counts = {"LOCAL_WORLD_SIZE": launch.local_world}
    given = os.environ.get("OMP_NUM_THREADS")
    counts |= {} if given else {"OMP_NUM_THREADS": own_cores(launch.local_world)}
    before = {name: os.environ.get(name) for name in counts}
    os.environ.update({name: str(count) for name, count in counts.items()})
    try:
        with nullcontext() if given else threads(counts["OMP_NUM_THREADS"]):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
