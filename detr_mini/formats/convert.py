"""From one form of annotations to another; the very same boxes come out, and come back."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from detr_mini.errors import ConfigError, DataError, UserError, nearest
from detr_mini.formats.coco import enclosing
from detr_mini.formats.columns import area_of, columns_of, rotation_of
from detr_mini.formats.discover import Source
from detr_mini.formats.faults import LOOKS
from detr_mini.formats.tree import Tree, with_one_list
from detr_mini.formats.voc import CATEGORIES, voc_xml
from detr_mini.formats.yolo import fractions
from detr_mini.images.load import image_size
from detr_mini.progress import track
from detr_mini.safe_files import safe_name

WRITTEN = ("coco", "voc", "yolo")
"""The forms that can be written; a dataset in another one is written as COCO."""
PLACING = ("copy", "link", "none")
BAR_FROM = 2000


def convert(source: Source, output: str | Path, to: str, *, images: str = "copy") -> list[str]:
    """Write `source` in the form `to` ("coco", "voc", "yolo") into the new folder `output`; what there is to say of it.

    `images`: "copy" them, "link" (hard links, where the disk can), or "none". Boxes are carried over as they are,
    those past the edge too. What the new form has no place for is left out and counted in what comes back. DataError
    for what cannot be read.
    """
    if to not in WRITTEN:
        raise ConfigError(f"to is {to!r}{nearest(str(to), WRITTEN)}; it must be {', '.join(WRITTEN)}")
    if images not in PLACING:
        raise ConfigError(f"images is {images!r}{nearest(str(images), PLACING)}; it must be {', '.join(PLACING)}")
    if to == source.format:
        raise ConfigError(f"{source.root} is in the form {to} already; nothing to convert")
    trees = source.trees()
    notes: list[str] = []
    for name, tree in trees.items():
        columns_of(tree.content, tree.path)  # says what cannot be used
        notes += check_sizes(name, tree)
    with new_folder(output) as folder:
        notes += write_set(folder, to, trees, images)
    return notes


def check_sizes(name: str, tree: Tree) -> list[str]:
    """Give each image its size; DataError where the annotations say another one. What the reader left out."""
    for image in track(tree.content["images"], f"Measuring the {name} images", at_least=BAR_FROM):
        size, _ = tree.sizes.get(image["id"]) or image_size(tree.folder / image["file_name"])
        said = image.get("height"), image.get("width")
        if all(said) and said != size:
            sizes = f"{size[1]} x {size[0]} pixels, but {tree.path} says {said[1]} x {said[0]}"
            raise DataError(
                f"{image['file_name']} is {sizes}: its boxes mean something else; see 'detr-mini data check'"
            )
        image["height"], image["width"] = size
    lost = [fault for fault in tree.faults if fault.kind not in LOOKS]
    if lost:
        raise DataError(f"{lost[0].kind}: {lost[0].text} ({len(lost)} faults that no box can be made of); fix them "
                        "first: 'detr-mini data check fix=true' writes a fixed copy")  # fmt: skip
    return [f"{name}: {notice}" for notice in tree.notices]


def write_set(folder: Path, to: str, trees: Mapping[str, Tree], images: str = "copy") -> list[str]:
    """Write the splits in the form `to` into `folder`; what it has no place for, in words. Images must have sizes."""
    write = {"voc": _write_voc, "yolo": _write_yolo}.get(to, _write_coco)
    return write(folder, trees, images)


def _write_coco(folder: Path, trees: Mapping[str, Tree], images: str) -> list[str]:
    (folder / "annotations").mkdir()
    for name, tree in trees.items():
        names = _plain_names(tree)
        records = [{**image, "file_name": names[image["file_name"]]} for image in tree.content["images"]]
        annotations = [
            {"area": a["bbox"][2] * a["bbox"][3], **{k: v for k, v in a.items() if k != "where"}}
            for a in tree.content["annotations"]
        ]
        content = {**tree.content, "images": records, "annotations": annotations}
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        _place(tree, {old: folder / name / new for old, new in names.items()}, images)
    return []


def _plain_names(tree: Tree) -> dict[str, str]:
    """Of each file name its path in the copy: without the folders that all images share, and below the copy's folder.

    No two are the same, whatever the names are.
    """
    names = dict.fromkeys(image["file_name"] for image in tree.content["images"])
    paths = {name: _relative(name, tree.folder) for name in names}
    folders = {path.parent for path in paths.values()}
    shared = PurePosixPath(os.path.commonpath(folders)) if folders else PurePosixPath()
    taken: set[str] = set()
    found = {}
    for name, path in paths.items():
        safe = PurePosixPath(safe_name(str(path.relative_to(shared) if path.is_relative_to(shared) else path)))
        numbered = (str(safe.with_name(f"{safe.stem}_{k}{safe.suffix}")) for k in count(2))
        found[name] = str(safe) if str(safe) not in taken else next(n for n in numbered if n not in taken)
        taken.add(found[name])
    return found


def _relative(name: str, folder: Path) -> PurePosixPath:
    """A file name as a path from `folder`, without detours."""
    path = os.path.relpath(folder / name, folder) if os.path.isabs(name) else os.path.normpath(name)
    return PurePosixPath(Path(path).as_posix())


def _write_voc(folder: Path, trees: Mapping[str, Tree], images: str) -> list[str]:
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (folder / "Annotations").mkdir()
    taken: dict[str, int] = {}
    trees = with_one_list(trees)
    categories = {c["id"]: c["name"] for tree in trees.values() for c in tree.content["categories"]}
    lines = [f"{number} {name}\n" for number, name in sorted(categories.items())]
    (folder / CATEGORIES).write_text("".join(lines), encoding="utf-8")
    for name, tree in trees.items():
        names = {c["id"]: c["name"] for c in tree.content["categories"]}
        owned = _owned(tree)
        files = {old: _flat(plain, taken) for old, plain in _plain_names(tree).items()}
        bare = _unlabelled(tree)
        for image in tree.content["images"]:
            file = files[image["file_name"]]
            if image["file_name"] in bare and not owned[image["id"]]:
                continue
            text = voc_xml({**image, "file_name": file}, owned[image["id"]], names)
            (folder / "Annotations" / f"{Path(file).stem}.xml").write_text(text, encoding="utf-8")
        (lists / f"{name}.txt").write_text("".join(f"{Path(file).stem}\n" for file in files.values()), encoding="utf-8")
        _place(tree, {old: folder / "JPEGImages" / new for old, new in files.items()}, images)
    return _left_out(trees, {"segmentation": "outlines"})


def _flat(name: str, taken: dict[str, int]) -> str:
    """A file name whose stem nobody has yet: VOC keeps all images in one folder."""
    path = PurePosixPath(name)
    return _free(path.name if path.stem not in taken else "_".join(path.parts), taken)


def _free(name: str, taken: dict[str, int]) -> str:
    """`name`, or one with a number behind it, so that each stem is there once. `taken`: the last number by stem."""
    path = PurePosixPath(name)
    base = stem = str(path.with_suffix(""))
    while stem in taken:
        taken[base] += 1
        stem = f"{base}_{taken[base]}"
    taken[stem] = 1
    return f"{stem}{path.suffix}"


def _unlabelled(tree: Tree) -> set[str]:
    """Images of a VOC or YOLO tree that had no label file: whether they show nothing, nobody has said."""
    return {fault.image for fault in tree.faults if fault.kind == "image without label file"}


def _write_yolo(folder: Path, trees: Mapping[str, Tree], images: str) -> list[str]:
    trees = with_one_list(trees)
    categories = {c["id"]: c["name"] for tree in trees.values() for c in tree.content["categories"]}
    index = {category_id: rank for rank, category_id in enumerate(sorted(categories))}
    notes = _left_out(trees, {"segmentation": "outlines", "area": "areas of outlines"})
    for name, tree in trees.items():
        owned = _owned(tree)
        crowd = turned = 0
        taken: dict[str, int] = {}
        files = {old: _free(plain, taken) for old, plain in _plain_names(tree).items()}
        bare = _unlabelled(tree)
        for image in tree.content["images"]:
            rows = []
            if image["file_name"] in bare and not owned[image["id"]]:
                continue
            for annotation in owned[image["id"]]:
                if annotation.get("iscrowd"):
                    crowd += 1
                    continue
                angle = rotation_of(annotation)
                turned += bool(angle % 180)
                box = enclosing(np.array([annotation["bbox"]], float), np.array([angle]))[0].tolist() if angle % 180 \
                    else [float(v) for v in annotation["bbox"]]  # fmt: skip
                texts = fractions(box, image["width"], image["height"])
                rows.append(f"{index[annotation['category_id']]} {' '.join(texts)}\n")
            label = (folder / "labels" / name / files[image["file_name"]]).with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(rows), encoding="utf-8")
        _place(tree, {old: folder / "images" / name / new for old, new in files.items()}, images)
        if crowd:
            notes.append(f"{name}: {crowd} crowd regions are left out; YOLO has no place for them")
        if turned:
            notes.append(f"{name}: {turned} turned boxes became the upright boxes around them; YOLO has no angle")
    lines = ["path: .", *(f"{name}: images/{name}" for name in trees), "names:"]
    lines += [f"  {rank}: {json.dumps(categories[i], ensure_ascii=False)}" for i, rank in index.items()]
    if any(i != rank for i, rank in index.items()):
        lines += ["category_ids:  # in the set that this was made from", *(f"  {r}: {i}" for i, r in index.items())]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return notes


def _owned(tree: Tree) -> dict[int, list[dict[str, Any]]]:
    owned: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in tree.content["annotations"]:
        owned[annotation["image_id"]].append(annotation)
    return owned


def _left_out(trees: Mapping[str, Tree], keys: Mapping[str, str]) -> list[str]:
    notes = []
    for name, tree in trees.items():
        counts = Counter(
            what
            for a in tree.content["annotations"]
            for key, what in keys.items()
            if a.get(key) and not (key == "area" and not abs(area_of(a[key]) - a["bbox"][2] * a["bbox"][3]) > 1e-6)
        )
        notes += [f"{name}: {number} {what} are left out" for what, number in counts.items()]
    return notes


def _place(tree: Tree, where: Mapping[str, Path], images: str) -> None:
    if images == "none":
        return
    for name, target in track(list(where.items()), "Placing the images", at_least=BAR_FROM):
        if ".." in target.parts:
            raise DataError(f"{name!r} would be written outside the output, to {target}; rename the image")
        target.parent.mkdir(parents=True, exist_ok=True)
        place_file(tree.folder / name, target, link=images == "link")


def place_file(source: Path, target: Path, *, link: bool = False) -> None:
    """Copy a file, or make a hard link where the disk can."""
    if link:
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)


@contextmanager
def new_folder(output: str | Path) -> Iterator[Path]:
    """A folder that appears under its name only when it is whole; UserError where it is there already."""
    output = Path(output).expanduser()
    if output.exists():
        raise UserError(f"the output {output} exists already; choose a new folder")
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
