"""Writes made datasets once. A folder is complete as soon as it exists, and holds the settings of its scenes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from detr_mini.errors import DataError
from detr_mini.progress import track

Job = tuple[int, str, int]
"""(seed, split, index) of a scene."""
Made = TypeVar("Made")


def made_once(
    root: str | Path,
    wanted: Mapping[str, int],
    splits: Mapping[str, int],
    write: Callable[[Path, Mapping[str, int]], None],
) -> str:
    """Let `write` make the `wanted` scenes in `root` unless they are there already. Returns a sentence for the user.

    `write` fills a temporary folder beside `root`, which is then renamed. It has a folder for each of `splits` (name to
    number of scenes) and one for annotations. DataError for a folder with other content or other scenes.
    """
    root, size = Path(root), wanted["size"]
    if min(splits.values()) < 0 or sum(splits.values()) == 0:
        numbers = ", ".join(map(str, splits.values()))
        raise DataError(f"cannot make {numbers} scenes ({', '.join(splits)}); ask for at least one in total")
    if not 48 <= size <= 4096:
        raise DataError(f"made scenes of {size} pixels are not possible; give a size from 48 to 4096")
    if _same(root, wanted):
        return f"the made scenes in {root} are there already and are used as they are"
    absolute = Path(os.path.abspath(root))
    temporary = absolute.with_name(f".{absolute.name}.making-{os.getpid()}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        for name in (*splits, "annotations"):
            (temporary / name).mkdir(parents=True)
        write(temporary, wanted)
        (temporary / "scenes.json").write_text(json.dumps(wanted))
        try:
            os.rename(temporary, root)
        except OSError:
            if not _same(root, wanted):  # otherwise another process has just made the same
                raise
    except OSError as error:
        raise DataError(f"cannot write made scenes to {root}: {error.strerror or error}; "
                        "free some space, or set data.root to a folder with write permission") from error  # fmt: skip
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"made {sum(splits.values())} scenes of {size} x {size} pixels in {root}"


def drawn(work: Callable[[list[Job]], list[Made]], jobs: Sequence[Job], processes: int) -> list[Made]:
    """The results of `work` for all jobs, in order, by several processes. DataError if one of them is killed."""
    chunks = [list(jobs[i : i + 25]) for i in range(0, len(jobs), 25)]
    if processes <= 1 or len(chunks) <= 1:
        return [made for chunk in track(chunks, "Drawing scenes") for made in work(chunk)]
    # An executor's processes end by a message. A pool's are sent SIGTERM, which a caller's handler, copied by the
    # fork, may swallow: the pool would then wait for ever.
    with ProcessPoolExecutor(processes, initializer=_may_be_ended) as executor:
        made = executor.map(work, chunks)  # before the bar: its thread must not be copied by a fork
        try:
            return [m for part in track(made, "Drawing scenes", total=len(chunks)) for m in part]
        except BrokenProcessPool:
            raise DataError(
                f"one of {processes} processes that draw scenes was killed, often for lack of memory; nothing was "
                f"written. Ask for fewer with processes={processes // 2} (in a training data.make.processes)"
            ) from None


def _may_be_ended() -> None:
    """In a drawing process: SIGTERM ends it whatever the caller's handler does, and Ctrl-C is left to the caller."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _same(root: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether `root` holds the `wanted` scenes. DataError if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / "scenes.json").read_text())
    except (OSError, ValueError):
        raise DataError(f"{root} holds something other than made scenes; set data.root to a new folder") from None
    if found == wanted:
        return True
    differ = ", ".join(f"{k}={found.get(k)} there, {v} wanted" for k, v in wanted.items() if found.get(k) != v)
    raise DataError(f"{root} holds other scenes ({differ}); set data.root to a new folder, or remove this one")
