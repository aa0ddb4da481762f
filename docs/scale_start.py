"""Seconds and memory of the start of a training on a dataset of COCO's size, by processes and workers.

    python docs/scale_start.py FOLDER images=118000 boxes=860000 outlines=true processes=1,4 workers=0,4

FOLDER gets a made COCO, unless it is there already: annotations with outlines as COCO's (or without, as Objects365's),
and images that are links to a few small files, so that it takes little room. Each of the processes imports the package,
reads the data as `detr-mini train data=coco` does and loads the first batch (of small images: batches are not what is
measured). This is done without `data.annotation_cache`, then with an empty one (the first start), then again (the
second). `starts=first,second` leaves one out.

"core s" is the time on a core, which other work on the machine changes little. Memory is the sum over all processes and
their workers of PSS, in which a page that several share counts once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZES = ((480, 640), (640, 480), (427, 640), (640, 427), (375, 500))
MOST_LINKS = 20_000
"""Names of one file; file systems have limits."""
CATEGORIES = 80
STARTS = ("without", "first", "second")
MEGA = 2**20


def main(folder: Path, processes: Sequence[int], workers: Sequence[int], starts: Sequence[str]) -> None:
    """Print a row for each number of processes and of workers, and each kind of start."""
    size = (folder / "annotations" / "train.json").stat().st_size / MEGA
    print(f"{size:,.0f} MB of annotations, {os.cpu_count()} cores")
    print(
        "| processes | workers | start | imports: s | MB | data and first batch: s | core s | MB at most | MB after |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for each in processes:
        for few in workers:
            if "first" in starts:
                shutil.rmtree(folder / "cache", ignore_errors=True)
            for kind in starts:
                numbers = measure(folder, each, few, "null" if kind == "without" else str(folder / "cache"))
                shown = " | ".join(f"{number:.1f}" if number < 100 else f"{number:,.0f}" for number in numbers)
                print(f"| {each} | {few} | {kind} | {shown} |", flush=True)


def make(folder: Path, images: int, boxes: int, outlines: bool) -> None:
    """A COCO with a train and a val of a twentieth of its size."""
    if (folder / "annotations" / "val.json").exists():
        return
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for name, share in (("train", 1.0), ("val", 0.05)):
        _write_split(folder, name, int(images * share), int(boxes * share), outlines)
    hour = time.time() - 3600  # what has changed just now is not kept
    for path in (
        folder / "annotations" / "train.json",
        folder / "annotations" / "val.json",
        folder / "train",
        folder / "val",
    ):
        os.utime(path, (hour, hour))


def _write_split(folder: Path, name: str, images: int, boxes: int, outlined: bool) -> None:
    rng = np.random.default_rng(len(name))
    (folder / name).mkdir()
    sizes = [SIZES[i] for i in rng.integers(len(SIZES), size=images).tolist()]
    originals: dict[tuple[tuple[int, int], int], Path] = {}
    records = []
    for number, (height, width) in enumerate(sizes, start=1):
        file = folder / name / f"{number:012d}.jpg"
        key = (height, width), number // MOST_LINKS
        if key in originals:
            os.link(originals[key], file)
        else:
            Image.fromarray(rng.integers(0, 256, (height, width), np.uint8) // 8).convert("RGB").save(file)
            originals[key] = file
        records.append({"id": number, "file_name": file.name, "height": height, "width": width})
    owners = np.sort(rng.integers(images, size=boxes))
    corners, kinds = rng.random((boxes, 4)), rng.integers(1, CATEGORIES + 1, size=boxes).tolist()
    outlines = [f'"segmentation": {[[round(v, 2) for v in (rng.random(46) * 400).tolist()]]}, ' if outlined else ""
                for _ in range(200)]  # fmt: skip
    with (folder / "annotations" / f"{name}.json").open("w") as file:
        file.write('{"info": {}, "licenses": [], "images": ' + json.dumps(records) + ', "annotations": [')
        for start in range(0, boxes, 10_000):
            rows = []
            for k in range(start, min(start + 10_000, boxes)):
                height, width = sizes[owners[k]]
                x, y = corners[k, 0] * width * 0.8, corners[k, 1] * height * 0.8
                w, h = 1 + corners[k, 2] * (width - x - 2), 1 + corners[k, 3] * (height - y - 2)
                rows.append(
                    f'{{{outlines[k % 200]}"area": {w * h * 0.6:.4f}, "iscrowd": 0, "image_id": '
                    f'{owners[k] + 1}, "bbox": [{x:.2f}, {y:.2f}, {w:.2f}, {h:.2f}], "category_id": {kinds[k]}, '
                    f'"id": {k + 1}}}'
                )
            file.write((", " if start else "") + ", ".join(rows))
        listed = [{"supercategory": "made", "id": i, "name": f"kind {i}"} for i in range(1, CATEGORIES + 1)]
        file.write('], "categories": ' + json.dumps(listed) + "}")


def measure(folder: Path, processes: int, workers: int, cache: str) -> list[float]:
    """Seconds and memory of the imports; then, of data and first batch, seconds, seconds of a core and memory."""
    command = [sys.executable, str(Path(__file__).resolve()), "--process", str(folder), str(workers), cache]
    begun = time.perf_counter()
    started = [
        subprocess.Popen(
            [*command, str(place), str(processes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for place in range(processes)
    ]
    try:
        _wait(started, "imported")
        imported = time.perf_counter() - begun
        memory = Peak([process.pid for process in started])
        before, used = memory.now(), memory.core_seconds()
        begun = time.perf_counter()
        with memory:
            _tell(started)
            _wait(started, "loaded")
            loaded = time.perf_counter() - begun
        after, used = memory.now(), memory.core_seconds() - used
        _tell(started)
        for process in started:
            process.wait(60)
    finally:
        for process in started:
            process.kill()
    return [imported, before / MEGA, loaded, used, memory.most / MEGA, after / MEGA]


def _wait(processes: Sequence[subprocess.Popen[str]], word: str) -> None:
    for process in processes:
        assert process.stdout is not None
        for line in islice(process.stdout, 1000):
            if line.strip() == word:
                break
        else:
            raise SystemExit("a process has failed; its error is above")


def _tell(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


class Peak:
    """The memory of some processes and all that they start, looked at again and again."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids, self.most = pids, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: Any) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.3):
            self.most = max(self.most, self.now())
        self.most = max(self.most, self.now())

    def now(self) -> int:
        """Bytes of all these processes."""
        return sum(pss(pid) for parent in self.pids for pid in family(parent))

    def core_seconds(self) -> float:
        """Time on a core of all these processes, in seconds."""
        return sum(ticks(pid) for parent in self.pids for pid in family(parent)) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from family(int(child))
    except OSError:
        return


def pss(pid: int) -> int:
    """A process's share of its pages, in bytes."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def ticks(pid: int) -> int:
    """A process's time on a core, in the system's ticks."""
    try:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    except OSError:
        return 0


def process(folder: str, workers: str, cache: str, place: str, processes: str) -> None:
    """One process of the training."""
    from detr_mini.config.compose import compose
    from detr_mini.config.plain import plain_dict
    from detr_mini.models.build import build_part
    from detr_mini.training import run  # noqa: F401  # with all that a training imports

    words = ["data=coco", f"data.root={folder}", f"data.annotation_cache={cache}", f"data.workers={workers}",
             "data.train.images=train", "data.train.annotations=annotations/train.json", "data.val.images=val",
             "data.val.annotations=annotations/val.json", "data.batch_size=2", "data.size=64"]  # fmt: skip
    settings = plain_dict(compose("train", words), resolve=True)["data"]
    print("imported", flush=True)
    sys.stdin.readline()
    data = build_part("data", settings, mean=[0.5] * 3, std=[0.25] * 3, stride=32, seed=0)
    data.setup("fit")
    data.divide(int(place), int(processes))
    batches = iter(data.train_dataloader())
    data.val_dataloader()
    next(batches)
    print("loaded", flush=True)
    sys.stdin.readline()
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        process(*sys.argv[2:])
    else:
        given = dict(word.split("=", 1) for word in sys.argv[2:])
        counts = {name: [int(n) for n in given.get(name, default).split(",")]
                  for name, default in (("processes", "1,4"), ("workers", "0,4"))}  # fmt: skip
        starts = given.get("starts", ",".join(STARTS)).split(",")
        folder = Path(sys.argv[1]).resolve()
        images, boxes = int(given.get("images", 118_000)), int(given.get("boxes", 860_000))
        make(folder, images, boxes, given.get("outlines", "true") == "true")
        main(folder, counts["processes"], counts["workers"], starts)
