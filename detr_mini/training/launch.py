"""Who starts the processes of a training: torchrun, SLURM's srun, or the first process of each machine itself.

Each process learns its place from the variables that its launcher sets. Nothing is made before these fit the settings.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from lightning_fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment

from detr_mini.errors import ConfigError

STARTER = "DETR_MINI_STARTER"
"""The variable that names the starting process to those that it starts."""


@dataclass(frozen=True)
class Launch:
    """The place of this process among those of its training."""

    by: str | None = None
    """The launcher. None: this process starts the others of its machine."""
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    node: int = 0
    starter: int | None = None
    """The pid of the process of this training that started this one; None if a launcher or a person did."""

    @property
    def first_of_machine(self) -> bool:
        return self.local_rank == 0


def find_launch(devices: int, num_nodes: int, given: Mapping[str, str] | None = None) -> Launch:
    """This process's place, from the environment (`given` replaces it).

    ConfigError where a launcher has started other numbers than `devices` on each of `num_nodes` machines: each process
    would train a detector of its own, or wait for others that never come.
    """
    env = os.environ if given is None else given
    found = _environment(env, devices, num_nodes) or _slurm(env)
    if found is None:
        return _own(devices, num_nodes, env)
    machines = -(-found.world // found.local_world)
    if (found.local_world, machines) != (devices, num_nodes):
        there = "" if machines == 1 else f", {found.local_world} on each of {machines} machines"
        raise ConfigError(
            f"{found.by} has started {_count(found.world)}{there}, but trainer.devices={devices} and "
            f"trainer.num_nodes={num_nodes} ask for {devices * num_nodes}; set trainer.devices={found.local_world} "
            f"trainer.num_nodes={machines}, or start {devices * num_nodes}"
        )
    if found.by == "SLURM" and found.world > 1 and not {"SLURM_STEP_ID", "SLURM_STEPID"} & set(env):
        raise ConfigError(
            f"the SLURM job has {found.world} tasks, but this process was not started by srun and would wait for the "
            "others; put srun before detr-mini"
        )
    return found


def _environment(env: Mapping[str, str], devices: int, num_nodes: int) -> Launch | None:
    """From RANK and WORLD_SIZE, which torchrun and most clusters set. Not all set LOCAL_WORLD_SIZE."""
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return None
    rank, world = _number(env, "RANK"), _number(env, "WORLD_SIZE")
    each = _number(env, "LOCAL_WORLD_SIZE", devices if world == devices * num_nodes else world)
    local = _number(env, "LOCAL_RANK", rank % each)
    by = "torchrun" if "TORCHELASTIC_RUN_ID" in env else "the launcher (variable WORLD_SIZE)"
    node = _number(env, "GROUP_RANK", _number(env, "NODE_RANK", rank // each))
    return Launch(by, rank, world, local, each, node, _number(env, STARTER) if STARTER in env else None)


def _slurm(env: Mapping[str, str]) -> Launch | None:
    if "SLURM_NTASKS" not in env or env.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None  # in a shell of an allocation, this process starts the others
    world = _number(env, "SLURM_NTASKS")
    nodes = _number(env, "SLURM_NNODES", 1)
    each = _number(env, "SLURM_NTASKS_PER_NODE", -(-world // nodes))
    rank = _number(env, "SLURM_PROCID", 0)
    return Launch("SLURM", rank, world, _number(env, "SLURM_LOCALID", 0), each, _number(env, "SLURM_NODEID", 0))


def _own(devices: int, num_nodes: int, env: Mapping[str, str]) -> Launch:
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in env]
    if num_nodes > 1 and missing:
        raise ConfigError(
            f"trainer.num_nodes={num_nodes}, but nothing says which of the machines this is; start the training with "
            f"torchrun or srun, or set {', '.join(missing)} on each machine"
        )
    node = _number(env, "NODE_RANK", 0) if num_nodes > 1 else 0
    return Launch(None, node * devices, devices * num_nodes, 0, devices, node)


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in env:
        return default
    text = env[name]
    if not text.isdecimal():
        raise ConfigError(f"the variable {name} is '{text}'; a launcher sets it to a whole number")
    return int(text)


def _count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def meeting_point(launch: Launch) -> tuple[str, int]:
    """Address and port of the first process, as its launcher gives them. For SLURM, from its list of machines."""
    if launch.by == "SLURM":
        environment = SLURMEnvironment(auto_requeue=False)
        return environment.main_address, environment.main_port
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"{launch.by or 'the environment'} has not set {missing[0]}; set it to where the first process listens"
        )
    return os.environ["MASTER_ADDR"], _number(os.environ, "MASTER_PORT")


def start_others(launch: Launch, address: str, port: int) -> list[subprocess.Popen[bytes]]:
    """Start the other processes of this machine with this process's command; they find `address` and `port`."""
    processes = []
    for local in range(1, launch.local_world):
        place = {
            "RANK": launch.rank + local,
            "WORLD_SIZE": launch.world,
            "LOCAL_RANK": local,
            "LOCAL_WORLD_SIZE": launch.local_world,
            "GROUP_RANK": launch.node,
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
            STARTER: os.getpid(),
        }
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
        processes.append(subprocess.Popen(_command(), env=environment, stdin=subprocess.DEVNULL))
    return processes


def _command() -> list[str]:
    """What started this process; in a job of submitit, what the job trains."""
    import __main__

    spec = getattr(__main__, "__spec__", None)
    if spec is None:
        return [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]
    name = "detr_mini" if spec.name.startswith("submitit.") else spec.name
    return [sys.executable, "-m", name, *sys.argv[1:]]


class GivenPlace(ClusterEnvironment):
    """Tells Lightning the place of this process, so that it neither starts others nor queues a job again."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        with socket.create_server(("127.0.0.1", 0)) as server:  # of a process group of one process alone
            return int(server.getsockname()[1])

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.launch.world

    def set_world_size(self, size: int) -> None:
        """The launcher has set it."""

    def global_rank(self) -> int:
        return self.launch.rank

    def set_global_rank(self, rank: int) -> None:
        """The launcher has set it."""

    def local_rank(self) -> int:
        return self.launch.local_rank

    def node_rank(self) -> int:
        return self.launch.node
