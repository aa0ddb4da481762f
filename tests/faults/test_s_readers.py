"""Annotation files from strangers: paths stay below the root, nothing hangs, only our own errors come out."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data_parts import AUTO, edited, source, write_coco, write_images, write_voc, write_yolo
from detr_mini.checking.check import check
from detr_mini.checking.report import write_fixed_copy
from detr_mini.errors import DataError, UserError
from detr_mini.formats.coco import read_coco
from detr_mini.formats.convert import convert
from detr_mini.formats.discover import Source, find_layout
from detr_mini.formats.listing import image_files
from detr_mini.formats.load import read_split
from detr_mini.formats.yolo_names import read_data_file
from detr_mini.verbs.data_split import data_split
from detr_mini.verbs.data_subset import data_subset

BOX = {"bbox": [2, 3, 20, 12]}
SPLITS = {"train": {"images": "train", "annotations": "annotations/train.json"}}
ESCAPES = ["../../secret.png", "sub/../../../secret.png", "..\\..\\secret.png", "/tmp/secret.png", "C:\\secret.png"]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    begin = time.process_time()  # other tests take the processor, too
    yield
    assert time.process_time() - begin < seconds


def sentence(work: Callable[[], object]) -> str:
    """Our own error, where there is one; every other exception fails the test."""
    try:
        work()
    except UserError as error:
        return str(error)
    return ""


def complaint(work: Callable[[], object]) -> str:
    with pytest.raises(DataError) as error:
        work()
    assert "\n" not in str(error.value)
    return str(error.value)


def escaping(root: Path, name: str) -> Path:
    """A COCO set in `root`/inside/set whose second image is `name`; the secret lies two folders above its images."""
    home = root / "inside" / "set"
    write_coco(home, "train", images=[{"id": 1}, {"id": 2}, {"id": 3}], annotations=[BOX, {**BOX, "image_id": 3}])
    write_images(root / "inside", ["secret.png"])
    edited(home / "annotations" / "train.json", lambda c: c["images"][1].update(file_name=name))
    return home


@pytest.mark.parametrize("name", ESCAPES)
def test_s05_a_file_name_never_leads_a_reader_out_of_the_root(tmp_path: Path, name: str) -> None:
    home = escaping(tmp_path, name)
    for work in (
        lambda: read_coco(home / "annotations" / "train.json", home / "train"),
        lambda: read_split(home, {"images": "train", "annotations": "annotations/train.json"}),
        lambda: source(home).trees(),
        lambda: read_coco(home / "annotations" / "train.json", home / "train", on_missing="skip"),
    ):
        assert "which leads out of the folder" in complaint(work)


@pytest.mark.parametrize("name", ESCAPES)
def test_s05_no_verb_writes_outside_its_output(tmp_path: Path, name: str) -> None:
    home = escaping(tmp_path, name)
    (tmp_path / "out").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    shared = {"data": {"root": home, **AUTO}, "images": "copy", "seed": 0}
    choice = {"categories": None, "ids": None, "count": None, "share": None, "splits": None}
    works: list[Callable[[], object]] = [
        lambda: data_subset({**shared, **choice, "output": tmp_path / "out" / "subset"}),
        lambda: data_split({**shared, "val": 0.5, "test": 0, "all": False, "output": tmp_path / "out" / "split"}),
        lambda: convert(source(home), tmp_path / "out" / "voc", "voc"),
    ]
    for work in works:
        assert "leads out" in complaint(work)
    done = check(source(home), pixels=False)
    assert done.counts["file name that cannot be used"] == 1
    write_fixed_copy(done, tmp_path / "out" / "fixed")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: text for path, text in after.items() if path in before} == before
    assert all(path.is_relative_to(tmp_path / "out" / "fixed") for path in after.keys() - before.keys())
    written = json.loads((tmp_path / "out" / "fixed" / "annotations" / "train.json").read_text())
    assert [image["file_name"] for image in written["images"]] == ["1.png", "3.png"]


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_s05_images_beside_the_root_that_the_user_named_are_written_inside_the_output(tmp_path: Path, to: str) -> None:
    write_yolo(tmp_path / "set", {"train": {"a": ["0 0.5 0.5 0.2 0.2"]}})
    write_images(tmp_path / "other", ["not there.png", "b.png", "c.png"])  # the first one is the picture of a.png
    (tmp_path / "other" / "not there.png").unlink()
    (tmp_path / "other" / "c.png").rename(tmp_path / "other" / "a.png")
    split = {"images": ["images/train", "../other"], "names": "data.yaml"}
    found = Source(tmp_path / "set", "yolo", {"train": split})
    output = tmp_path / "deep" / "down" / "out"
    if to == "yolo":
        write_fixed_copy(check(found, pixels=False), output)
    else:
        convert(found, output, to)
    assert len(image_files(output)) == 3
    assert len(image_files(tmp_path)) == 6


def test_s05_names_inside_the_root_may_go_up_and_down(tmp_path: Path) -> None:
    write_coco(tmp_path, "train", annotations=[BOX])
    write_images(tmp_path / "val", ["x.png"])
    edited(tmp_path / "annotations" / "train.json", lambda c: c["images"][1].update(file_name="../val/x.png"))
    coco = read_split(tmp_path, {"images": "train", "annotations": "annotations/train.json"})
    assert [record.file_name for record in coco.records] == ["1.png", "../val/x.png"]
    convert(source(tmp_path), tmp_path / "out", "yolo")
    assert len(image_files(tmp_path / "out")) == 2


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "sub/../../../../secret"])
def test_s05_lists_and_xml_files_stay_below_the_root(tmp_path: Path, name: str) -> None:
    root = write_voc(tmp_path / "a" / "voc", {"train": {"a": [("bolt", (2, 3, 30, 39))]}})
    write_images(tmp_path / "a", ["secret.png"])
    split = find_layout(root).splits["train"]
    xml = root / "Annotations" / "a.xml"
    xml.write_text(xml.read_text().replace("a.png", f"{name}.png"))
    (root / "JPEGImages" / "a.png").rename(root / "JPEGImages" / "other.png")
    assert "a.jpg" in complaint(lambda: read_split(root, split, format="voc"))
    (root / "ImageSets" / "Main" / "train.txt").write_text(f"a\n{name}\n")
    assert "which leads out of the folder" in complaint(lambda: read_split(root, split, format="voc"))
    yolo = write_yolo(tmp_path / "a" / "yolo", {"train": {"a": ["0 0.5 0.5 0.2 0.2"]}})
    (yolo / "list.txt").write_text(f"images/train/a.png\n{name}.png\n")
    text = complaint(lambda: read_split(yolo, {"images": "list.txt", "names": "data.yaml"}, format="yolo"))
    assert "secret.png" in text or "passwd.png" in text
    assert str(tmp_path / "a" / "secret.png") not in text


@pytest.mark.parametrize("word", ["1e5000000", "9" * 100_000, "1e-5000000", "-1e5000000", "0." + "0" * 100_000 + "1"])
@pytest.mark.parametrize("place", range(5))
def test_s08_huge_numbers_in_a_label_file_cost_nothing(tmp_path: Path, word: str, place: int) -> None:
    row = ["0", "0.5", "0.5", "0.2", "0.2"]
    row[place] = word
    root = write_yolo(tmp_path, {"train": {"a": ["0 0.5 0.5 0.2 0.2"], "b": [" ".join(row)]}})
    with at_most(5):
        assert len(sentence(lambda: read_split(root, find_layout(root).splits["train"], format="yolo"))) < 1000
        check(source(root), pixels=False)


@pytest.mark.parametrize("word", ["1e5000000", "9" * 100_000, "1e-5000000", "inf", "1e400"])
def test_s08_huge_numbers_in_an_xml_file_cost_nothing(tmp_path: Path, word: str) -> None:
    root = write_voc(tmp_path, {"train": {"a": [("bolt", (2, 3, 30, 39))], "b": [("bolt", (2, 3, 30, 39))]}})
    xml, split = root / "Annotations" / "a.xml", find_layout(root).splits["train"]
    text = xml.read_text()
    for old in ("<xmin>2<", "<ymax>39<", "<width>60<"):
        xml.write_text(text.replace(old, f"{old.partition('>')[0]}>{word}<"))
        with at_most(5):
            assert len(sentence(lambda: read_split(root, split, format="voc", on_wrong_size="skip"))) < 1000
            check(source(root), pixels=False)


def test_s08_a_label_file_without_end_is_a_broken_file(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {"train": {"a": ["0 0.5 0.5 0.2 0.2"], "b": ["0 0.5 0.5 0.2 0.2"]}})
    for text, reason in (
        ("0 0.5 0.5 0.2 0.2\n" * 100_000, "a.txt has 100,000 rows"),
        (" " * 9_000_000, "has 9,000,000 bytes, the limit is"),
    ):
        (root / "labels" / "train" / "a.txt").write_text(text)
        with at_most(5):
            said = complaint(lambda: read_split(root, find_layout(root).splits["train"], format="yolo"))
        assert reason in said


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12)
)
MAPS = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k} {{l: *a{k - 1}, r: *a{k - 1}}}\n" for k in range(1, 60))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{BOMB}names: *a11\n", "by its anchor"),
        (f"{BOMB}names: [a, b]\ntrain: *a11\npath: *a11\n", "by its anchor"),
        (f"{MAPS}names: *a59\n", "by its anchor"),
        (f"names: [a, b]\n{MAPS}merged: {{<<: *a59}}\n", "by its anchor"),
        (f"names: {'[' * 100_000}{']' * 100_000}\n", "nest|flow level"),
        (f"names: [a]\nx: {'{a: ' * 50_000}\n", "nest|flow level"),
        ("names: [" + "abc, " * 500_000 + "]\n", "has .* bytes, the limit"),
    ],
)
def test_s08_a_yaml_file_that_makes_much_of_little_is_refused_at_once(tmp_path: Path, text: str, reason: str) -> None:
    root = write_yolo(tmp_path, {"train": {"a": ["0 0.5 0.5 0.2 0.2"]}})
    (root / "data.yaml").write_text(text)
    with at_most(3):
        with pytest.raises(DataError, match=reason):
            read_data_file(root / "data.yaml")
        with pytest.raises(DataError, match=reason):
            source(root)


def test_s08_an_entity_bomb_in_xml_is_a_broken_file(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"train": {"a": [("bolt", (2, 3, 30, 39))]}})
    entities = '<!ENTITY a0 "lol">' + "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 10))
    (root / "Annotations" / "a.xml").write_text(f"<!DOCTYPE x [{entities}]><annotation>&a9;</annotation>")
    with at_most(5):
        text = complaint(lambda: read_split(root, find_layout(root).splits["train"], format="voc"))
    assert "a.xml is not whole XML" in text


def test_s08_links_that_lead_back_are_not_followed(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"train": {"a": ["0 0.5 0.5 0.2 0.2"]}})
    for name in ("one", "two"):
        (root / "images" / name).symlink_to(".")
        (root / "images" / "train" / name).symlink_to("..")
        (root / name).symlink_to("/")
    with at_most(5):
        assert [path.name for path in image_files(root)] == ["a.png"]
        assert len(read_split(root, {"images": "images", "names": "data.yaml"}, format="yolo")) == 1
        assert len(source(root).trees()["train"].content["images"]) == 1
    (root / "elsewhere").symlink_to(tmp_path / "elsewhere")
    write_images(tmp_path / "elsewhere", ["b.png"])
    assert [path.name for path in image_files(root)] == ["b.png", "a.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_s08_pipes_and_devices_are_refused_at_once(tmp_path: Path, kind: str) -> None:
    def replace(path: Path) -> None:
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")

    coco, folder = write_coco(tmp_path / "coco", annotations=[BOX])
    voc = write_voc(tmp_path / "voc", {"train": {"a": [("bolt", (2, 3, 30, 39))], "b": [("bolt", (2, 3, 30, 39))]}})
    yolo = write_yolo(tmp_path / "yolo", {"train": {"a": ["0 0.5 0.5 0.2 0.2"], "b": ["0 0.5 0.5 0.2 0.2"]}})
    places = {"voc": find_layout(voc).splits["train"], "yolo": find_layout(yolo).splits["train"]}
    with at_most(10):
        replace(folder / "2.png")
        assert "2.png" in complaint(lambda: read_coco(coco, folder))
        replace(coco)
        assert "pipe or a device" in complaint(lambda: read_coco(coco, folder))
        replace(voc / "Annotations" / "a.xml")
        assert "pipe or a device" in complaint(lambda: read_split(voc, places["voc"], format="voc"))
        replace(voc / "ImageSets" / "Main" / "train.txt")
        assert "pipe or a device" in complaint(lambda: read_split(voc, places["voc"], format="voc"))
        replace(yolo / "labels" / "train" / "a.txt")
        assert "pipe or a device" in complaint(lambda: read_split(yolo, places["yolo"], format="yolo"))
        check(source(yolo), pixels=False)
        replace(yolo / "data.yaml")
        assert "data.yaml" in complaint(lambda: read_split(yolo, places["yolo"], format="yolo"))


class Waiting(BaseException):
    """A reader waits for a file; no reader catches this."""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(("form", "name"), [("cvat", "a.xml"), ("via", "a.json"), ("via", "a.csv"), ("csv", "b.csv"),
                                            ("label_studio", "a.json")])  # fmt: skip
def test_s08_a_pipe_or_a_device_for_a_file_of_a_tool_is_refused_at_once(
    tmp_path: Path, form: str, name: str, kind: str
) -> None:
    write_images(tmp_path, ["a.png"])
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    split = {"images": ".", "annotations": name}

    def ring(*_: object) -> None:
        raise Waiting(name)

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(5)  # a pipe without a writer is waited for without end
    try:
        assert name in complaint(lambda: read_split(tmp_path, split, format=form))
        assert check(Source(tmp_path, form, {"train": split}), pixels=False).counts["broken annotation file"] == 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def cvat(box: str) -> str:
    return f'<annotations><image name="a.png" width="60" height="40">{box}{CVAT_BOX}</image></annotations>'


def track(box: str) -> str:
    """The file of a video; its track has a good box, too."""
    good = '<box frame="0" xtl="2" ytl="3" xbr="22" ybr="15"/>'
    return f'<annotations><track id="0" label="bolt">{box}{good}</track></annotations>'


def via(number: str) -> str:
    shapes = (f'"x": {x}, "y": 3, "width": 20, "height": 12' for x in (number, "2"))
    regions = (f'{{"shape_attributes": {{"name": "rect", {s}}}, "region_attributes": {{"c": "bolt"}}}}' for s in shapes)
    return f'{{"a": {{"filename": "a.png", "regions": [{", ".join(regions)}]}}}}'


def task(image: str) -> str:
    value = {"x": 25, "y": 25, "width": 50, "height": 50, "rectanglelabels": ["bolt"]}
    good = {"original_width": 60, "original_height": 40, "value": value}
    return json.dumps([{"data": {"image": name}, "annotations": [{"result": [good]}]} for name in (image, "a.png")])


CVAT_BOX = '<box label="bolt" xtl="2" ytl="3" xbr="22" ybr="15"/>'
OF_TOOLS = [
    ("cvat", cvat('<box label="bolt" xtl="2" ytl="3" xbr="1e5000000" ybr="15"/>'), "row that is no box"),
    ("cvat", cvat('<box label="bolt" xtl="2" ytl="3" xbr="1e12" ybr="15"/>'), "row that is no box"),
    ("cvat", cvat(f'<box label="bolt" xtl="2" ytl="3" xbr="{"9" * 100_000}" ybr="15"/>'), "row that is no box"),
    ("cvat", cvat('<box label="bolt" xtl="2" ytl="3" xbr="22" ybr="15" rotation="1e400"/>'), "row that is no box"),
    ("cvat", cvat('<ellipse label="bolt" cx="2" cy="3" rx="1e400" ry="15"/>'), "row that is no box"),
    ("cvat", track(f'<box frame="{"9" * 5000}" xtl="2" ytl="3" xbr="22" ybr="15"/>'), "row that is no box"),
    ("cvat", track('<box frame="-1" xtl="2" ytl="3" xbr="22" ybr="15"/>'), "row that is no box"),
    ("via", via("1" + "0" * 400), "row that is no box"),
    ("via", via("1" + "0" * 5000), "row that is no box"),
    ("via", via("1e400"), "row that is no box"),
    ("label_studio", task("http://[x"), "image file missing"),
    ("label_studio", task("http://exa\u2100mple.com/gone.png"), "image file missing"),
]
"""Files of one good box, and one that is none: the format, the text, and the kind of the fault."""


@pytest.mark.parametrize(("form", "text", "fault"), OF_TOOLS, ids=[f"{k}-{row[0]}" for k, row in enumerate(OF_TOOLS)])
def test_s09_numbers_and_addresses_in_files_of_tools_are_faults_and_no_crash(
    tmp_path: Path, form: str, text: str, fault: str
) -> None:
    name = "annotations.xml" if form == "cvat" else "annotations.json"
    write_images(tmp_path, ["frame_000000.png" if "<track" in text else "a.png"])
    (tmp_path / name).write_text(text, encoding="utf-8")
    with at_most(5):
        found = find_layout(tmp_path)
        assert found.format == form
        coco = read_split(tmp_path, found.splits["train"], format=form, on_missing="skip")
        assert coco.report.boxes == 1
        assert coco.report.dropped == {fault: 1}
        assert check(source(tmp_path), pixels=False).counts[fault] == 1


def test_s09_any_json_in_a_folder_may_hold_any_address(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {"train": {"a": ["0 0.5 0.5 0.2 0.2"]}})
    for k, text in enumerate(("http://[x", "http://exa\u2100mple.com/a.png")):
        (root / f"{k}.json").write_text(json.dumps([{"annotations": [], "link": text}]), encoding="utf-8")
    assert find_layout(root).format == "yolo"


STRANGE: list[tuple[str, bytes | Callable[[dict[str, Any]], object]]] = [
    ("deep lists", b'{"images": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    ("deep objects", b'{"images": [], "annotations": [], "categories": ' + b'{"a":' * 100_000),
    ("deep in what nobody asks for", b'{"info": ' + b"[" * 100_000 + b"]" * 100_000 + b', "images": []}'),
    ("a number of 5,000 digits", b'{"images": [{"id": ' + b"7" * 5000 + b"}]}"),
    ("a number of 4,000 digits", lambda c: c["images"][0].update(id=10**4000)),
    ("a name of 300 bytes", lambda c: c["images"][0].update(file_name="x" * 300 + ".png")),
    ("a path of 10,000 bytes", lambda c: c["images"][0].update(file_name="x/" * 5000 + "a.png")),
    ("half a character in a file name", lambda c: c["images"][0].update(file_name="\ud800.png")),
    ("half a character in a category", lambda c: c["categories"][0].update(name="\udfff")),
    ("a zero in a file name", lambda c: c["images"][0].update(file_name="a\0.png")),
    ("a line feed in a category", lambda c: c["categories"][0].update(name="bo\nlt")),
    ("image ids that are lists", lambda c: c["images"][0].update(id=[1])),
    ("owners that are objects", lambda c: c["annotations"][0].update(image_id={"a": 1})),
    ("categories that are lists", lambda c: c["annotations"][0].update(category_id=[[1]])),
    ("category ids that are lists", lambda c: c["categories"][0].update(id=[])),
    ("not a number", lambda c: c["annotations"][0].update(bbox=[float("nan"), 1, 2, 3])),
    ("infinite", lambda c: c["annotations"][0].update(bbox=[1, 1, float("inf"), 3])),
    ("beyond all pixels", lambda c: c["annotations"][0].update(bbox=[1, 1, 1e308, 1e308])),
    ("a size beyond all pixels", lambda c: c["images"][0].update(height=1e300, width=1e300)),
    ("iscrowd as an object", lambda c: c["annotations"][0].update(iscrowd={"a": 1})),
    ("nothing at all", b""),
    ("UTF-16 cut in half", '{"images": []}'.encode("utf-16")[:-1]),
    ("zeros", b"\0" * 1000),
]


@pytest.mark.parametrize("parser", ["msgspec", "json"])
@pytest.mark.parametrize(("name", "change"), STRANGE, ids=[name for name, _ in STRANGE])
def test_s09_whatever_a_coco_file_holds_only_our_own_errors_come_out(
    tmp_path: Path, name: str, change: Any, parser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if parser == "json":
        monkeypatch.setitem(__import__("sys").modules, "msgspec", None)
    path, folder = write_coco(tmp_path, annotations=[BOX, {**BOX, "image_id": 2}])
    if isinstance(change, bytes):
        path.write_bytes(change)
    else:
        edited(path, change)
    texts = []
    lenient = dict.fromkeys(("on_missing", "on_wrong_size", "on_bad_image"), "skip")
    for work in (
        lambda: read_coco(path, folder),
        lambda: read_coco(path, folder, **lenient),
        lambda: Source(
            tmp_path, "coco", {"train": {"images": "train", "annotations": "annotations/train.json"}}
        ).trees(),
    ):
        texts.append(sentence(work))
        assert "\n" not in texts[-1]
        assert "\ud800" not in texts[-1]
        assert len(texts[-1]) < 1500
    done = check(Source(tmp_path, "coco", SPLITS))
    assert texts[0] or "size beyond" in name
    json.dumps(done.to_dict(), ensure_ascii=False).encode()
    assert "\n" not in sentence(lambda: write_fixed_copy(done, tmp_path / "fixed"))


def test_s09_both_parsers_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("msgspec")
    path, folder = write_coco(tmp_path, annotations=[BOX, {**BOX, "image_id": 2}])
    clean = path.read_text()
    for name, change in STRANGE:
        path.write_text(clean)
        path.write_bytes(change) if isinstance(change, bytes) else edited(path, change)
        said = []
        for missing in (False, True):
            with monkeypatch.context() as patch:
                if missing:
                    patch.setitem(__import__("sys").modules, "msgspec", None)
                try:
                    said.append(read_coco(path, folder).boxes_xywh.tolist())
                except DataError as error:
                    said.append(str(error))
        assert said[0] == said[1], name


def test_s09_labels_and_lists_with_strange_names_and_bytes(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "yolo", {"train": {"a": ["0 0.5 0.5 0.2 0.2"]}})
    split = {"images": "list.txt", "names": "data.yaml"}
    for line in ("x" * 300 + ".png", "x/" * 5000, "\0.png", ".", "..", "~", "/", "\\\\server\\x.png"):
        (root / "list.txt").write_text(f"images/train/a.png\n{line}\n")
        assert "\n" not in sentence(lambda: read_split(root, split, format="yolo", on_missing="skip"))
    for names in (
        "{0: [a], 1: {b: c}}",
        "{0: a, 00: b}",
        '["\\ud800"]',
        "{99999999999999999999: a}",
        "{[1]: a}",
        "!!x y",
    ):
        (root / "data.yaml").write_text(f"train: images/train\nnames: {names}\n")
        with pytest.raises(DataError):
            source(root).trees()
    for rest in (
        "nc: [1]",
        "category_ids: {0: x}",
        "category_ids: [1]",
        "kpt_shape: x",
        "path: [[a]]",
        "train: {a: b}",
    ):
        (root / "data.yaml").write_text(f"names: [bolt, nut, washer]\n{rest}\n")
        assert "\n" not in sentence(lambda: json.dumps(check(source(root), pixels=False).to_dict()))
