"""What the writers of all formats share: names of files in a copy, images placed, a folder that appears whole."""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from detr_mini.errors import DataError, UserError
from detr_mini.formats.box_rules import area_of
from detr_mini.formats.faults import Kind
from detr_mini.formats.path_words import split_of_name
from detr_mini.formats.tree import Tree
from detr_mini.progress import BAR_FROM, track
from detr_mini.safe_files import safe_name


def plain_names(tree: Tree) -> dict[str, str]:
    """Of each file name its path in the copy: without the folders that all images share, and below the copy's folder.

    Folders whose names speak of a split are left out, since the copy has its own. No two names are the same.
    """
    names = dict.fromkeys(image["file_name"] for image in tree.content["images"])
    paths = {name: _relative(name, tree.folder) for name in names}
    folders = {path.parent for path in paths.values()}
    shared = PurePosixPath(os.path.commonpath(folders)) if folders else PurePosixPath()
    taken: set[str] = set()
    found = {}
    for name, path in paths.items():
        own = path.relative_to(shared) if path.is_relative_to(shared) else path
        folders_kept = [part for part in own.parent.parts if split_of_name(part) is None]
        safe = PurePosixPath(safe_name("/".join([*folders_kept, own.name])))
        numbered = (str(safe.with_name(f"{safe.stem}_{k}{safe.suffix}")) for k in count(2))
        found[name] = str(safe) if str(safe) not in taken else next(n for n in numbered if n not in taken)
        taken.add(found[name])
    return found


def _relative(name: str, folder: Path) -> PurePosixPath:
    """A file name as a path from `folder`, without detours."""
    path = os.path.relpath(folder / name, folder) if os.path.isabs(name) else os.path.normpath(name)
    return PurePosixPath(Path(path).as_posix())


def written_names(tree: Tree, form: str, taken: dict[str, int] | None = None) -> dict[str, str]:
    """`plain_names` as a form writes them: VOC keeps all images in one folder, YOLO has one label file for each stem.

    `taken`: see `free_name`.
    """
    taken = {} if taken is None else taken
    place = {"voc": flat_name, "yolo": labelled_name}.get(form)
    return {old: plain if place is None else place(plain, taken) for old, plain in plain_names(tree).items()}


def flat_name(name: str, taken: dict[str, int]) -> str:
    """A file name with an unused stem: VOC keeps all images in one folder."""
    path = PurePosixPath(name)
    return free_name(path.name if path.stem not in taken else "_".join(path.parts), taken)


def labelled_name(name: str, taken: dict[str, int]) -> str:
    """A file name with an unused stem, and no folder called images: readers of YOLO look for an image's labels where
    the last folder of that name is called labels."""
    *folders, file = PurePosixPath(name).parts
    return free_name("/".join([*(folder for folder in folders if folder != "images"), file]), taken)


def free_name(name: str, taken: dict[str, int]) -> str:
    """`name`, or one with a number behind it, so that each stem is there once. `taken`: the last number by stem."""
    path = PurePosixPath(name)
    base = stem = str(path.with_suffix(""))
    while stem in taken:
        taken[base] += 1
        stem = f"{base}_{taken[base]}"
    taken[stem] = 1
    return f"{stem}{path.suffix}"


def unlabelled(tree: Tree) -> set[str]:
    """Images of a VOC or YOLO dataset without a label file: they may or may not show objects."""
    return {fault.image for fault in tree.faults if fault.kind is Kind.NO_LABEL_FILE}


def owned_by(tree: Tree) -> dict[int, list[dict[str, Any]]]:
    """The annotations of each image, by its id."""
    owned: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in tree.content["annotations"]:
        owned[annotation["image_id"]].append(annotation)
    return owned


def owned_by_file(tree: Tree) -> dict[str, list[dict[str, Any]]]:
    """The annotations of each file, by its name: some COCO files list an image once for each of its boxes."""
    owned, found = owned_by(tree), defaultdict[str, list[dict[str, Any]]](list)
    for image in tree.content["images"]:
        found[image["file_name"]] += owned[image["id"]]
    return found


def one_of_each_file(tree: Tree) -> list[dict[str, Any]]:
    """A record of each image file, see `owned_by_file`."""
    return list({image["file_name"]: image for image in tree.content["images"]}.values())


def without_crowds(annotations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of single objects, for a form that has no place for crowd regions."""
    return [annotation for annotation in annotations if not annotation.get("iscrowd")]


def left_out(trees: Mapping[str, Tree], keys: Mapping[str, str]) -> list[str]:
    """A notice for each of `keys` (key of an annotation: its name in words) that a form has no place for.

    Keypoints are among them everywhere: only COCO, which leaves out nothing, has a place for them.
    """
    keys, notes = {**keys, "keypoints": "lists of keypoints"}, list[str]()
    for name, tree in trees.items():
        counts = Counter(
            what
            for a in tree.content["annotations"]
            for key, what in keys.items()
            if a.get(key) and not (key == "area" and not abs(area_of(a[key]) - a["bbox"][2] * a["bbox"][3]) > 1e-6)
        )
        notes += [f"{name}: {number} {what} are left out" for what, number in counts.items()]
    return notes


def place_images(tree: Tree, where: Mapping[str, Path], images: str) -> None:
    """Copy or link each image to the path that `where` gives for its file name; nothing where `images` is "none"."""
    if images == "none":
        return
    made = set[Path]()
    for name, target in track(list(where.items()), "Placing the images", at_least=BAR_FROM):
        if ".." in target.parts:
            raise DataError(f"{name!r} would be written outside the output, to {target}; rename the image")
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        place_file(tree.folder / name, target, link=images == "link")


def place_file(source: Path, target: Path, *, link: bool = False) -> None:
    """Copy a file, or make a hard link where the disk can."""
    if link:
        try:
            os.link(os.path.realpath(source), target)  # the file, where `source` is a link to it from its own folder
            return
        except OSError:
            pass
    shutil.copyfile(source, target)


def file_place(report: str | Path) -> Path:
    """The path of a file to write, in a folder that is made where it is not there; to be asked for before long work.

    UserError where it is a folder, or cannot be written.
    """
    report = Path(report).expanduser()
    if report.is_dir():
        raise UserError(f"report={report} is a folder; give the name of a JSON file")
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"report={report} cannot be written ({why}); choose another file") from error
    return report


def free_place(output: str | Path) -> Path:
    """The path of a new folder, to be asked for before long work.

    UserError where it is there already, or where nothing can be written.
    """
    output = Path(output).expanduser()
    if output.exists():
        raise UserError(f"the output {output} exists already; choose a new folder")
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"the output {output} cannot be written: {above} is no folder that you may write to; choose "
                        "another place")  # fmt: skip
    return output


@contextmanager
def new_folder(output: str | Path) -> Iterator[Path]:
    """A folder that appears under its name only when it is whole; UserError where it is there already."""
    output = free_place(output)
    output = Path(os.path.realpath(output.parent)) / output.name  # without "..", which no file inside may have
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
