"""Mutated annotation files of every format, and of captions, through every reader, the check and the writers.

`python tests/faults/fuzz_annotations.py --seed 0 --count 20000` prints what came out, as JSON, and ends with 1 where an
exception was not the readers' own, where one file took over five seconds, or where memory grew by more than a gigabyte.
A mutant is a function of seed and number alone: `--only 1234` makes it again, with its traceback.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_parts import AUTO, write_coco, write_images, write_voc, write_yolo
from detr_mini.captions.captions_of_split import read_captions
from detr_mini.captions.mdetr_format import caption_faults, caption_records, instances_of
from detr_mini.checking.check import check
from detr_mini.checking.report import write_fixed_copy
from detr_mini.errors import UserError
from detr_mini.formats.coco import read_coco
from detr_mini.formats.columns import read_json
from detr_mini.formats.convert import convert
from detr_mini.formats.discover import Source, find_layout
from detr_mini.formats.load import read_split
from detr_mini.formats.split import CocoSet
from detr_mini.phrases import Caption, Phrase

SECONDS = 5.0
BYTES = 2**30
LENIENT = dict.fromkeys(("on_missing", "on_wrong_size", "on_bad_image"), "skip")
SPLITS = {"train": {"images": "train", "annotations": "annotations/train.json"}}
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, -1e308, 5e-324, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30,
    10**400, float("nan"), float("inf"), float("-inf"), "", "0", "1", "1.0", "-1", "1e5000000", "9" * 5000, "nan",
    "\0", "\n", "\ud800", "\udcff", "a\u0301", "\u202e", "x" * 300, "x/" * 3000, "../../../../etc/passwd",
    "/etc/passwd", "C:\\x", "..", ".", "~", "1.png", "2.png", [], {}, [[]], [{}], {"a": {}}, [1], [1, 2, 3, 4],
    [None] * 4, ["1"] * 4, [1e308] * 4, [[1, 2, 3]], {"counts": "PP", "size": [4, 4]}, {"counts": [2**62, 1], "size":
    [2**31, 2**31]}, {"rotation": 1e308}, {"rotation": "30"},
]  # fmt: skip
TOKENS = [
    b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\x80", b"\xed\xa0\x80", b"\\ud800", b'"', b"'", b"\\", b"[", b"]", b"{",
    b"}", b",", b":", b"-", b"<", b">", b"&", b"&#0;", b"&#x110000;", b"]]>", b"<!--", b"<![CDATA[",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&a ", b"*a", b"<<: *a", b"!!python/object:os.system", b"%YAML 9.9\n", b"---\n",
    b"\n", b"\r", b"\t", b"NaN", b"Infinity", b"1e5000000", b"9" * 5000, b"null", b"true", b"1e-400", b"0x10", b"1_0",
    "\u0663".encode(), b"[" * 3000, b'{"a":' * 3000, b"<a>" * 3000, b'"images":[],', b'"id":1,',
    b"kpt_shape: [4, 3]\n", b"names: [a]\n", b"path: /\n", b"train: ../../..\n", b"nc: 3\n",
]  # fmt: skip


SIZE = {"original_width": 60, "original_height": 40}
REGIONS = [
    {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 30, "rectanglelabels": ["bolt"]},
    {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["nut"]},
    {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "ellipselabels": ["nut"]},
]
TASKS = [
    {"data": {"image": "/data/upload/1/a.png", "url": "http://example.org/x"}, "annotations": [
        {"result": [{"type": "rectanglelabels", **SIZE, "value": value} for value in REGIONS]}]},
    {"data": {"image": "b.png"}, "annotations": [{"result": []}], "predictions": [{"score": 0.5, "result": []}]},
]  # fmt: skip
SHAPES = [
    ({"name": "rect", "x": 15, "y": 10, "width": 30, "height": 20}, {"class": "bolt"}),
    ({"name": "polygon", "all_points_x": [15, 45, 30], "all_points_y": [10, 12, 30]}, {"class": {"nut": True}}),
    ({"name": "circle", "cx": 30, "cy": 20, "r": 9}, {"class": "bolt"}),
]
VIA = [{"shape_attributes": shape, "region_attributes": attributes} for shape, attributes in SHAPES]
TOOLS = {
    "cvat": {
        "annotations.xml": """<annotations><meta><labels><label><name>bolt</name></label></labels></meta>
<image id="0" name="a.png" width="60" height="40">
<box label="bolt" xtl="15.0" ytl="10" xbr="45" ybr="30" rotation="30"/>
<polygon label="nut" points="15,10;45,12;30,30"/></image>
<image id="1" name="b.png" width="60" height="40"><ellipse label="bolt" cx="30" cy="20" rx="15" ry="10"/>
<mask label="nut" rle="1, 2" left="5" top="5" width="9" height="9"/></image></annotations>""",
        "video.xml": """<annotations>
<meta><original_size><width>60</width><height>40</height></original_size></meta><track id="0" label="bolt">
<box frame="0" outside="0" xtl="15" ytl="10" xbr="45" ybr="30"/>
<box frame="1" outside="0" xtl="5" ytl="10" xbr="45" ybr="30"/></track></annotations>""",
    },
    "via": {
        "via.json": json.dumps({
            "a.png1": {"filename": "a.png", "regions": VIA[:1]},
            "b.png1": {"filename": "b.png", "regions": {"0": VIA[1], "1": VIA[2]}}}),
        "via.csv": """filename,file_size,region_count,region_id,region_shape_attributes,region_attributes
a.png,1,1,0,"{""name"":""rect"",""x"":15,""y"":10,""width"":30,""height"":20}","{""class"":""bolt""}"
b.png,1,1,0,"{""name"":""ellipse"",""cx"":30,""cy"":20,""rx"":9,""ry"":5}","{""class"":""nut""}"
""",
    },
    "label_studio": {"tasks.json": json.dumps(TASKS)},
    "csv": {
        "corners.csv": """filename,width,height,class,xmin,ymin,xmax,ymax
a.png,60,40,bolt,15,10,45,30\nb.png,60,40,nut,5,5,20,20\nb.png,,,nut,6,6,30,20
""",
        "sized.csv": """image_id,bbox,label
a,"[15.0, 10.0, 30.0, 20.0]",bolt\nb,"[1, 2, 30.5, 20]",nut\nb,"[3, 2, 30, 20]",nut
""",
        "shares.csv": """ImageID,LabelName,XMin,XMax,YMin,YMax\na,bolt,0.25,0.75,0.25,0.75\nb,nut,0.1,0.5,0.2,0.8
""",
    },
}  # fmt: skip
"""Files of labelling tools for the images a.png and b.png, or frames of a video."""
KEYS = ("id", "bbox", "ignore", "iscrowd", "attributes", "segmentation", "where", "x")


def bytes_changed(content: bytes, rng: random.Random) -> bytes:
    """One change of bytes: flipped, inserted, removed, repeated, moved, cut off."""
    size = len(content)
    a, b = sorted((rng.randrange(size + 1), rng.randrange(size + 1)))
    b = min(b, a + rng.choice((1, 4, 60, size)))
    piece = content[a:b]
    return {
        "flip": lambda: content[:a] + bytes([rng.randrange(256)]) + content[a + 1 :],
        "insert": lambda: content[:a] + rng.choice(TOKENS) + content[a:],
        "replace": lambda: content[:a] + rng.choice(TOKENS) + content[b:],
        "remove": lambda: content[:a] + content[b:],
        "repeat": lambda: content[:a] + piece * rng.choice((2, 3, 50)) + content[b:],
        "move": lambda: piece + content[:a] + content[b:],
        "cut": lambda: content[:a],
        "reverse": lambda: content[:a] + piece[::-1] + content[b:],
    }[rng.choice(("flip", "insert", "replace", "remove", "repeat", "move", "cut", "reverse"))]()


def encoded_again(content: bytes, rng: random.Random) -> bytes:
    """The same text in another encoding, with or without its mark."""
    text = content.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7", "cp500")), "replace")


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything inside."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [p for key, value in inside for p in ((*path, key), *places(value, (*path, key)))]


def at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def near(value: float) -> tuple[float, ...]:
    """Other numbers. A whole number may be too large for a floating-point one."""
    whole = (-value, value + 1, value * 10)
    return whole if abs(value) > 1e300 else (*whole, value / 3, value * 1e300, value + 0.0)


def json_changed(content: Any, rng: random.Random) -> Any:
    """One change of structure: a value replaced, dropped, written in another type, doubled, moved, nested."""
    ways = places(content)
    if not ways:
        return content
    path = rng.choice(ways)
    holder, key = at(content, path[:-1]), path[-1]
    value = holder[key]
    how = rng.choice(("junk", "junk", "drop", "text", "wrap", "object", "double", "other", "grow", "nest", "rename"))
    if how == "junk":
        holder[key] = copy.deepcopy(rng.choice(JUNK))
    elif how == "drop":
        del holder[key]
    elif how == "text":
        holder[key] = str(value) if not isinstance(value, str) else rng.choice((0, 1.0, len(value)))
    elif how == "wrap":
        holder[key] = [value]
    elif how == "object":
        holder[key] = {str(key): value}
    elif how == "double" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
    elif how == "other":
        holder[key] = copy.deepcopy(at(content, rng.choice(ways)))
    elif how == "grow" and isinstance(value, int | float) and not isinstance(value, bool):
        holder[key] = rng.choice(near(value))
    elif how == "nest":
        holder[key] = f"@nest{rng.choice((3, 100, 5000))}{rng.choice('[{')}"
    elif how == "rename" and isinstance(holder, dict):
        holder[rng.choice(("id", "bbox", "ignore", "iscrowd", "attributes", "segmentation", "where", "x"))] = (
            holder.pop(key)
        )
    return content


def words_changed(content: bytes, rng: random.Random) -> bytes:
    """One word of a text file (a tag's text, a number of a row) replaced by junk, doubled, or dropped."""
    text = content.decode("utf-8", "surrogateescape")
    marks = [0, *(k for k, letter in enumerate(text) if letter in ' \n<>:,[]{}"'), len(text)]
    k = rng.randrange(len(marks) - 1)
    begin, end = marks[k] + (k > 0), marks[k + 1]
    junk = rng.choice([value for value in JUNK if isinstance(value, str | int | float)])
    new = rng.choice(
        (str(junk) if not isinstance(junk, int) or abs(junk) < 10**300 else "9" * 401, "", text[begin:end] * 2)
    )
    return (text[:begin] + new + text[end:]).encode("utf-8", "surrogatepass" if "\ud800" in new else "surrogateescape")


NESTED = re.compile(r'"@nest(\d+)([\[{])"')


def nested(found: re.Match[str]) -> str:
    """So many lists or objects in each other, which `json.dumps` could not write."""
    depth, kind = int(found[1]), found[2]
    return "[" * depth + "]" * depth if kind == "[" else '{"a":' * depth + "1" + "}" * depth


@dataclass
class Result:
    """What came out."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    slowest: float = 0.0
    most_memory: int = 0


class TooSlow(BaseException):
    """A mutant took more than SECONDS."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def resident() -> int:
    """Bytes of this process at its highest, since the last call."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class Fuzz:
    """Clean sets in a folder, whose annotation files are replaced by mutants, one after the other."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed = root, seed
        boxes = [
            {"bbox": [2, 3, 20, 12], "area": 200, "segmentation": [[2, 3, 22, 3, 22, 15]]},
            {"bbox": [5.5, 6.25, 30, 20], "category_id": 2, "attributes": {"rotation": 30, "occluded": False}},
            {"bbox": [1, 1, 50, 30], "image_id": 2, "category_id": 3, "iscrowd": 1, "ignore": 0},
            {"bbox": [30, 20, 25, 15], "image_id": 2, "segmentation": {"counts": [5, 9, 2386], "size": [40, 60]}},
        ]
        write_coco(root / "coco", annotations=boxes)
        things = {k: [("bolt", (2, 3, 30, 39)), ("nut", (5.5, 6, 20, 30))] for k in "ab"}
        write_voc(root / "voc", {"train": things}, extra="<pose>Left</pose><truncated>1</truncated>")
        (root / "voc" / "categories.txt").write_text("1 bolt\n2 nut\n")
        rows = ["0 0.5 0.5 0.2 0.2", "1 0.1 0.1 0.9 0.1 0.9 0.5", "2 0.25 0.25 0.125 0.125"]
        write_yolo(root / "yolo", {"train": {"a": rows, "b": rows}, "val": {"c": rows}})
        (root / "yolo" / "list.txt").write_text("images/train/a.png\nimages/train/b.png\n")
        write_coco(root / "captions", annotations=boxes[:2])
        self.instances: CocoSet = read_coco(root / "captions/annotations/train.json", root / "captions/train")
        caption = Caption("a bolt and no cat", "k", (Phrase(((0, 6),), (0,), True), Phrase(((14, 17),), (), True)))
        pictures = [
            ({"id": i, "file_name": f"{i}.png", "height": 40, "width": 60}, boxes[:2], [caption]) for i in (1, 2)
        ]
        content = {**caption_records(pictures), "categories": [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}]}
        (root / "captions" / "captions.json").write_text(json.dumps(content))
        self.layouts = {
            "voc": find_layout(root / "voc").splits["train"],
            "yolo": find_layout(root / "yolo").splits["train"],
        }
        files = {
            "coco": ["annotations/train.json"],
            "captions": ["captions.json"],
            "voc": ["Annotations/a.xml", "Annotations/a.xml", "ImageSets/Main/train.txt", "categories.txt"],
            "yolo": ["labels/train/a.txt", "labels/train/a.txt", "data.yaml", "data.yaml", "list.txt"],
        }
        for kind, contents in TOOLS.items():
            write_images(root / kind / "images", ["a.png", "b.png", "frame_000000.png", "frame_000001.png"])
            for name, text in contents.items():
                (root / kind / name).write_text(text, encoding="utf-8")
        files |= {kind: list(contents) for kind, contents in TOOLS.items()}
        self.files = {kind: [root / kind / name for name in names] for kind, names in files.items()}
        self.clean = {path: path.read_bytes() for paths in self.files.values() for path in paths}

    def mutant(self, number: int) -> tuple[str, Path, bytes]:
        """The kind of set, the file, and what it holds instead."""
        rng = random.Random(f"{self.seed} {number}")
        kind = rng.choice(("coco", "coco", "captions", "voc", "yolo", *TOOLS))
        path = rng.choice(self.files[kind])
        content = self.clean[path]
        if path.suffix == ".json" and rng.random() < 0.7:
            changed = json.loads(content)
            for _ in range(rng.choice((1, 1, 2, 3, 8))):
                changed = json_changed(changed, rng)
            text = NESTED.sub(nested, json.dumps(changed, ensure_ascii=rng.random() < 0.8))
            content = text.encode("utf-8", "surrogatepass")
        elif path.suffix != ".json" and rng.random() < 0.6:
            for _ in range(rng.choice((1, 1, 2, 4))):
                content = words_changed(content, rng)
        if rng.random() < 0.4 or content == self.clean[path]:
            for _ in range(rng.choice((1, 1, 2, 5))):
                content = bytes_changed(content, rng) if content else b"\0"
        if rng.random() < 0.04:
            content = encoded_again(content, rng)
        return kind, path, content

    def works(self, kind: str, path: Path, number: int) -> list[Callable[[], object]]:
        """What is done with a mutant; the writers now and then."""
        root = self.root / kind
        if kind == "captions":
            captions, truth = root / "captions.json", self.instances.truth
            return [
                lambda: read_captions(captions, self.instances),
                lambda: caption_faults(captions, copy.deepcopy(truth)),
                lambda: instances_of(read_json(captions), captions),
            ]
        layout = {"images": "images", "annotations": path.name} if kind in TOOLS else self.layouts.get(kind)
        splits = SPLITS if layout is None else {"train": layout}
        source = Source(root, kind, splits)
        works: list[Callable[[], object]] = [
            lambda: read_split(root, splits["train"], format=kind, **LENIENT),
            lambda: check(source, pixels=False).to_dict(),
        ]
        if kind == "coco":
            works.insert(
                1, lambda: self.without_msgspec(lambda: read_split(root, splits["train"], format=kind, **LENIENT))
            )
        if kind == "yolo":
            works.append(lambda: read_split(root, {"images": "list.txt", "names": "data.yaml"}, format=kind, **LENIENT))
        if number % 5 == 0:
            works.append(lambda: Source.of({"root": root, **AUTO}))
            works.append(lambda: write_fixed_copy(check(source, pixels=False), self.root / "out"))
            works += [
                lambda to=to: convert(source, self.root / "out", to) for to in ("coco", "voc", "yolo") if to != kind
            ]
        return works

    @staticmethod
    def without_msgspec(work: Callable[[], object]) -> object:
        before = sys.modules.get("msgspec")
        sys.modules["msgspec"] = None  # type: ignore[assignment]
        try:
            return work()
        finally:
            if before is None:
                del sys.modules["msgspec"]
            else:
                sys.modules["msgspec"] = before

    def run(self, number: int, result: Result) -> None:
        """One mutant through everything."""
        kind, path, content = self.mutant(number)
        path.write_bytes(content)
        begin, memory, said = time.monotonic(), resident(), dict[int, object]()
        for k, work in enumerate(self.works(kind, path, number)):
            shutil.rmtree(self.root / "out", ignore_errors=True)
            try:
                with alarm(SECONDS):
                    found = work()
                result.outcomes[f"{kind}: read"] += 1
                said[k] = found.boxes_xywh.tolist() if isinstance(found, CocoSet) else None
            except UserError as error:
                result.outcomes[f"{kind}: refused"] += 1
                said[k] = str(error)
                if "\n" in str(error) or len(str(error)) > 25_000:
                    self.fail(result, number, path, "a message of several lines, or endless", str(error)[:500])
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                self.fail(
                    result,
                    number,
                    path,
                    f"work {k}: {type(error).__name__}: {str(error)[:200]}",
                    traceback.format_exc(),
                )
        if kind == "coco" and said.get(0) != said.get(1):
            self.fail(result, number, path, "the two parsers disagree", f"{said.get(0)!r:.500} | {said.get(1)!r:.500}")
        taken, grown = time.monotonic() - begin, max(0, resident() - memory)
        result.slowest, result.most_memory = max(result.slowest, taken), max(result.most_memory, grown)
        if grown > BYTES:
            self.fail(result, number, path, f"memory grew by {grown / 2**20:.0f} MiB", "")
        path.write_bytes(self.clean[path])

    def fail(self, result: Result, number: int, path: Path, what: str, trace: str) -> None:
        result.failures.append({"number": number, "file": path.name, "what": what, "trace": trace})


def fuzz(seed: int, first: int, count: int) -> Result:
    """`count` mutants from number `first` on."""
    result = Result()
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    try:
        machine = Fuzz(folder, seed)
        for number in range(first, first + count):
            machine.run(number, result)
    finally:
        shutil.rmtree(folder)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--only", type=int, default=None)
    given = parser.parse_args()
    first, count = (given.first, given.count) if given.only is None else (given.only, 1)
    result = fuzz(given.seed, first, count)
    for failure in result.failures if given.only is not None else []:
        print(failure["trace"], file=sys.stderr)
    kinds = Counter(failure["what"] for failure in result.failures)
    print(json.dumps({
        "mutants": count, "outcomes": dict(sorted(result.outcomes.items())), "failures": len(result.failures),
        "kinds": dict(kinds.most_common(40)), "numbers": [f["number"] for f in result.failures][:40],
        "slowest": round(result.slowest, 2), "most_memory_MiB": result.most_memory >> 20,
    }, indent=1))  # fmt: skip
    return int(bool(result.failures))


if __name__ == "__main__":
    sys.exit(main())
