"""CVAT's own XML 1.1 for images and for video: one file for many images, edges in pixels counted from 0.

The form: https://docs.cvat.ai/docs/other/xml_format. "CVAT for images" is written, too.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from detr_mini.categories import Categories
from detr_mini.errors import DataError
from detr_mini.formats.box_list import BoxList
from detr_mini.formats.box_rules import ellipse_edges, rotation_of
from detr_mini.formats.format import Format
from detr_mini.formats.layout import Layout, by_subset, layout_of_files
from detr_mini.formats.listing import NAMES, Listing, read_start
from detr_mini.formats.path_words import stem_of
from detr_mini.formats.tree import EXACT, Tree, with_one_list
from detr_mini.formats.values import as_flag, is_number
from detr_mini.formats.writing import left_out, owned_by, place_images, plain_names, without_crowds
from detr_mini.safe_files import read_bytes, reason, shown

NOT_BOXES = ("polyline", "points", "cuboid", "skeleton", "tag")
EDGES = ("xtl", "ytl", "xbr", "ybr")
FRAME, NUMBER = re.compile(r"frame_[0-9]{1,12}"), re.compile("[0-9]{1,12}")
OUTLINES = ("polygon", "ellipse", "mask")
SHAPES = ("box", *OUTLINES, *NOT_BOXES)
ATTRIBUTES = ("score", "doubt")
"""Of boxes that are written: a detector's score, and why a label is doubtful."""
_LONGEST_NUMBER = 200
"""Characters; our own writer needs about 60."""


def look_cvat(found: Listing) -> Layout | None:
    """XML files with the root <annotations> and images or tracks; splits by subset, file or folder."""
    files: dict[str, list[str]] = {}
    subsets: dict[str, dict[str, list[str]]] = {}
    for file in found.ending(".xml"):
        if not re.search(rb"<annotations[\s>]", read_start(found.root / file)):
            continue
        text = (found.root / file).read_text(encoding="utf-8-sig", errors="replace")
        tags = re.findall(r"<image\s[^>]*>", text)
        if tags or "<track" in text:
            files[file] = [name for tag in tags[:NAMES] if (name := _said(tag, "name"))]
            files[file] = files[file] or [posixpath.basename(image) for image in found.images[:NAMES]]
            subsets[file] = by_subset((subset, _said(tag, "name")) for tag in tags if (subset := _said(tag, "subset")))
    return layout_of_files(found, "cvat", files, subsets)


def _said(tag: str, key: str) -> str:
    match = re.search(rf'\b{key}="([^"]*)"', tag)
    return html.unescape(match[1]) if match else ""


def read_cvat(
    root: Path, images: str, annotations: str, subset: str | None = None, *, categories: Categories | None = None
) -> Tree:
    """The boxes of `root`/`annotations`, of one `subset` where said; upright boxes around outlines are used."""
    path = root / annotations
    try:
        content = ET.fromstring(read_bytes(path))
    except (ET.ParseError, OSError, ValueError, LookupError, RecursionError) as error:
        raise DataError(
            f"broken annotation file: {path} is not whole XML ({reason(error)}); export it from CVAT again"
        ) from None
    found = BoxList(path)
    names = (label.findtext("name") for label in content.iter("label"))
    found.names += dict.fromkeys(name.strip() for name in names if name and name.strip())
    for image in content.iter("image"):
        name = image.get("name", "")
        if not name or (subset and image.get("subset") != subset):
            continue
        found.image(name, image.get("height"), image.get("width"))
        for number, shape in enumerate(image, start=1):
            _add(found, name, shape, shape.get("label", ""), f"{shape.tag} {number} of image {name} in {path.name}")
    _add_tracks(found, content, root / images)
    return found.tree(root / images, categories)


def _add_tracks(found: BoxList, content: ET.Element, folder: Path) -> None:
    """The shapes of a video, by frame; CVAT saves frame 7 as frame_000007."""
    tracks = content.findall("track")
    if not tracks:
        return
    size = content.findtext(".//original_size/height"), content.findtext(".//original_size/width")
    listing = Listing(folder)
    frames = {int(stem_of(image)[6:]): image for image in listing.images if FRAME.fullmatch(stem_of(image))}
    if not frames:
        raise DataError(f"{found.path} numbers the frames of a video, and there is no frame_000000 in {folder}; export "
                        "it with images, or as 'CVAT for images 1.1'")  # fmt: skip
    for name in frames.values():
        found.image(name, *size)
    for track in tracks:
        for shape in track:
            frame = shape.get("frame", "")
            if shape.get("outside") == "1" or shape.tag not in SHAPES:
                continue
            place = f"{shape.tag} of track {shown(track.get('id', '?'))}"
            if not NUMBER.fullmatch(frame):
                found.no_box("", f"{place}: frame {shown(frame)} is no number")
                continue
            name = frames.get(int(frame), f"frame_{frame.zfill(6)}")
            _add(found, name, shape, track.get("label", ""), f"{place} in frame {frame}")


def _add(found: BoxList, image: str, shape: ET.Element, label: str, where: str) -> None:
    if shape.tag not in SHAPES:
        return
    try:
        if not label.strip() or shape.tag in NOT_BOXES:
            raise ValueError
        if shape.tag == "box":
            edges = [shape.get(key, "") for key in EDGES]
            angle = float(shape.get("rotation") or 0)
            if not is_number(angle):
                raise ValueError
            extra: dict[str, Any] = {"attributes": {"rotation": angle}} if angle else {}
            extra |= {"occluded": 1} if shape.get("occluded") == "1" else {}
            found.box(image, label, _xywh(edges), where, **extra)
        else:
            found.outline(image, label, *_corners(shape), where)
    except (ValueError, ArithmeticError):  # of Decimal
        found.no_box(image, f"{where}: a {shape.tag} without a box, or without a label")


def _xywh(edges: Sequence[str]) -> list[float]:
    """[left, top, width, height] from left, top, right, bottom, in decimal arithmetic: 30.3 - 10.1 is 20.2."""
    left, top, right, bottom = (Decimal(edge.strip()[:_LONGEST_NUMBER]) for edge in edges)
    return [float(left), float(top), float(EXACT.subtract(right, left)), float(EXACT.subtract(bottom, top))]


def _corners(shape: ET.Element) -> tuple[list[float], list[float]]:
    """The x and the y of an outline's points."""
    if shape.tag == "polygon":
        points = [point.split(",") for point in shape.get("points", "").split(";")]
        return [float(point[0]) for point in points], [float(point[-1]) for point in points]
    keys = ("cx", "cy", "rx", "ry") if shape.tag == "ellipse" else ("left", "top", "width", "height")
    x, y, w, h = (float(shape.get(key, "")) for key in keys)
    if shape.tag == "ellipse":
        return ellipse_edges((x, y), (w, h), float(shape.get("rotation") or 0))
    return [x, x + w], [y, y + h]


def write_cvat(folder: Path, trees: Mapping[str, Tree], images: str) -> list[str]:
    """<split>.xml ("CVAT for images 1.1") and the images in <split>/.

    A box with a `score` has the source "auto" and its score as an attribute, the others have the source "manual".
    """
    trees = with_one_list(trees)
    for split, tree in trees.items():
        files, owned = plain_names(tree), owned_by(tree)
        names = {c["id"]: c["name"] for c in tree.content["categories"]}
        root = ET.Element("annotations")
        ET.SubElement(root, "version").text = "1.1"
        task = ET.SubElement(ET.SubElement(root, "meta"), "task")
        for key, value in (("name", split), ("size", str(len(files))), ("mode", "annotation")):
            ET.SubElement(task, key).text = value
        labels = ET.SubElement(task, "labels")
        for name in names.values():
            _add_label(labels, name)
        for number, image in enumerate(tree.content["images"]):
            said = {"id": str(number), "name": files[image["file_name"]]}
            said |= {key: str(image[key]) for key in ("width", "height")}
            entry = ET.SubElement(root, "image", said)
            for box in without_crowds(owned[image["id"]]):
                _add_box(entry, box, names[box["category_id"]])
        ET.indent(root)
        ET.ElementTree(root).write(folder / f"{split}.xml", encoding="utf-8", xml_declaration=True)
        place_images(tree, {old: folder / split / new for old, new in files.items()}, images)
    return left_out(trees, {"segmentation": "outlines", "area": "areas", "iscrowd": "crowd regions"})


def _add_label(labels: ET.Element, name: str) -> None:
    """A label with the attributes that boxes may have: how sure a detector was, and what is doubtful."""
    label = ET.SubElement(labels, "label")
    ET.SubElement(label, "name").text = name
    attributes = ET.SubElement(label, "attributes")
    for key in ATTRIBUTES:
        attribute = ET.SubElement(attributes, "attribute")
        said = {"name": key, "mutable": "False", "input_type": "text", "default_value": "", "values": ""}
        for part, value in said.items():
            ET.SubElement(attribute, part).text = value


def _add_box(entry: ET.Element, box: Mapping[str, Any], label: str) -> None:
    x, y, w, h = (Decimal(repr(float(v))) for v in box["bbox"])
    edges = (x, y, EXACT.add(x, w), EXACT.add(y, h))
    said = {"label": label, "source": "auto" if "score" in box else "manual",
            "occluded": str(int(as_flag(box.get("occluded")) == 1))}  # fmt: skip
    said |= {key: format(edge, "f") for key, edge in zip(EDGES, edges, strict=True)} | {"z_order": "0"}
    attributes = box.get("attributes")
    angle = attributes.get("rotation") if isinstance(attributes, Mapping) and rotation_of(box) else None
    shape = ET.SubElement(entry, "box", said | ({"rotation": str(angle)} if angle else {}))
    for key in ATTRIBUTES:
        if key in box:
            ET.SubElement(shape, "attribute", name=key).text = str(box[key])


CVAT = Format(
    "cvat", look_cvat, ("images", "annotations", "subset"), 2, read_cvat, write=write_cvat, title="CVAT (XML)"
)
