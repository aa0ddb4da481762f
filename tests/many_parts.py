"""A large set of tiny images, made in seconds; as a script, what the data verbs cost on it.

python tests/many_parts.py FOLDER [IMAGES BOXES] prints the processor seconds and the memory of each verb.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np

SIZE = (48, 64)
CLASSES = 20


def tiny_png(rng: np.random.Generator) -> bytes:
    """A grey PNG of 64 x 48 pixels of coarse noise, about 200 bytes, unlike any other."""
    coarse = rng.integers(0, 256, (6, 8), np.uint8)
    pixels = np.kron(coarse, np.ones((8, 8), np.uint8))
    rows = np.concatenate([np.zeros((SIZE[0], 1), np.uint8), pixels], 1).tobytes()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def write_many(root: Path, images: int, boxes: int) -> Path:
    """A COCO set of one split in folders of a thousand images."""
    rng = np.random.default_rng(0)
    names = [f"{k // 1000:03d}/{k:06d}.png" for k in range(images)]
    for k, name in enumerate(names):
        path = root / "train" / name
        if k % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(tiny_png(rng))
    w, h = rng.integers(4, 30, (2, boxes))
    x, y = rng.integers(0, SIZE[1] - w), rng.integers(0, SIZE[0] - h)
    owners, kinds = rng.integers(1, images + 1, boxes), np.minimum(rng.geometric(0.2, boxes), CLASSES)
    records = [{"id": k, "file_name": n, "height": SIZE[0], "width": SIZE[1]} for k, n in enumerate(names, start=1)]
    columns = np.stack([owners, kinds, x, y, w, h], 1).tolist()
    annotations = [
        {"id": k, "image_id": i, "category_id": c, "bbox": [a, b, u, v], "area": u * v, "iscrowd": 0}
        for k, (i, c, a, b, u, v) in enumerate(columns, start=1)
    ]
    categories = [{"id": c, "name": f"kind {c}"} for c in range(1, CLASSES + 1)]
    (root / "annotations").mkdir()
    content = {"images": records, "annotations": annotations, "categories": categories}
    (root / "annotations" / "train.json").write_text(json.dumps(content))
    return root


def verbs(root: Path, out: Path) -> dict[str, list[str]]:
    """The words of each verb. Later ones read what earlier ones wrote."""
    data = f"data.root={root}"
    voc, yolo = f"data.root={out / 'voc'}", f"data.root={out / 'yolo'}"
    return {
        "check": ["check", data, "pixels=false"],
        "fix": ["check", data, "pixels=false", "fix=true", f"output={out / 'fixed'}"],
        "convert to voc": ["convert", data, "to=voc", f"output={out / 'voc'}", "images=link"],
        "convert to yolo": ["convert", data, "to=yolo", f"output={out / 'yolo'}", "images=link"],
        "convert voc to coco": ["convert", voc, "to=coco", f"output={out / 'coco1'}", "images=link"],
        "convert yolo to coco": ["convert", yolo, "to=coco", f"output={out / 'coco2'}", "images=link"],
        "check voc": ["check", voc, "pixels=false"],
        "check yolo": ["check", yolo, "pixels=false"],
        "subset": ["subset", data, "share=0.5", f"output={out / 'part'}", "images=link"],
        "split": ["split", data, "val=0.2", "test=0.1", f"output={out / 'split'}", "images=link"],
    }


def cost(words: list[str]) -> tuple[int, float, float]:
    """(exit status, processor seconds, MiB) of one command, its start included.

    The command is the child of a small process, since the peak of memory of a process counts that of its parent at the
    time of the fork.
    """
    command = [sys.executable, "-m", "detr_mini", "data", *words]
    measured = subprocess.run(
        [sys.executable, "-S", "-c", _COST, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    status, seconds, memory = json.loads(measured.stdout.splitlines()[-1])
    return status, seconds, memory


def forked(first: list[list[str]], commands: list[list[str]], counted: bool) -> list[tuple[int, int, float]]:
    """(exit status, calls and returns of functions, MiB) of each command, in a fork of a process that ran `first`.

    What `first` imports is not measured. Calls, of Python's and built-in functions, are counted only if `counted`:
    they are the same on each machine, however busy.
    """
    measured = subprocess.run(
        [sys.executable, "-c", _FORKED], input=json.dumps([first, commands, counted]), stdout=subprocess.PIPE,
        text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads do not survive a fork
    )  # fmt: skip
    return [tuple(json.loads(line)) for line in measured.stdout.splitlines()]


_FORKED = """
import itertools, json, os, sys, threading, traceback
from detr_mini.cli import main

first, commands, counted = json.load(sys.stdin)
answers = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
for words in first:
    assert main(["data", *words]) == 0, words


def measure(words, writer):
    count, status = itertools.count(), 1

    def event(*_):
        next(count)

    try:
        if counted:
            threading.setprofile(event)
            sys.setprofile(event)
        status = main(["data", *words])
        sys.setprofile(None)
        os.write(writer, str(next(count)).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


for words in commands:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        measure(words, writer)
    os.close(writer)
    calls = os.read(reader, 100)
    os.close(reader)
    _, status, usage = os.wait4(child, 0)
    answer = os.waitstatus_to_exitcode(status), int(calls or 0), usage.ru_maxrss / 1024
    print(json.dumps(answer), file=answers, flush=True)
"""

_COST = """
import json, os, sys
child = os.fork()
if child == 0:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    count, box_count = (int(v) for v in (sys.argv[2:4] or ("60000", "500000")))
    write_many(folder / "many", count, box_count)
    for verb, command in verbs(folder / "many", folder).items():
        code, seconds, memory = cost(command)
        print(f"{verb}: exit {code}, {seconds:.1f} s of processor time, {memory:.0f} MiB", flush=True)
