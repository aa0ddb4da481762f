"""CVAT's own XML 1.1 for images and for video: one file for many images, edges in pixels counted from 0."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from xml.etree import ElementTree as ET

from detr_mini.categories import Categories
from detr_mini.errors import DataError
from detr_mini.formats.box_list import BoxList
from detr_mini.formats.format import Format
from detr_mini.formats.listing import NAMES, Layout, Listing, layout_of_files, read_start, stem_of
from detr_mini.formats.tree import Tree

NOT_BOXES = ("polyline", "points", "cuboid", "skeleton", "tag")
FRAME = re.compile(r"frame_\d{1,12}")
OUTLINES = ("polygon", "ellipse", "mask")


def look_cvat(found: Listing) -> Layout | None:
    """XML files with the root <annotations> and images or tracks; splits by subset, file or folder."""
    files: dict[str, list[str]] = {}
    subsets: dict[str, list[str]] = {}
    for file in found.ending(".xml"):
        if not re.search(rb"<annotations[\s>]", read_start(found.root / file)):
            continue
        text = (found.root / file).read_text(encoding="utf-8-sig", errors="replace")
        tags = re.findall(r"<image\s[^>]*>", text)
        if tags or "<track" in text:
            files[file] = [name for tag in tags[:NAMES] if (name := _said(tag, "name"))]
            files[file] = files[file] or [posixpath.basename(image) for image in found.images[:NAMES]]
            subsets[file] = list(dict.fromkeys(subset for tag in tags if (subset := _said(tag, "subset"))))
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
        content = ET.fromstring(path.read_bytes())
    except (ET.ParseError, OSError, ValueError, LookupError) as error:
        raise DataError(
            f"broken annotation file: {path} is not whole XML ({error}); export it from CVAT again"
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
            if shape.get("outside") == "1" or not frame.isdecimal():
                continue
            name = frames.get(int(frame), f"frame_{frame.zfill(6)}")
            place = f"{shape.tag} of track {track.get('id', '?')} in frame {frame}"
            _add(found, name, shape, track.get("label", ""), place)


def _add(found: BoxList, image: str, shape: ET.Element, label: str, where: str) -> None:
    if shape.tag not in ("box", *OUTLINES, *NOT_BOXES):
        return
    try:
        if not label.strip() or shape.tag in NOT_BOXES:
            raise ValueError
        if shape.tag == "box":
            left, top, right, bottom = (float(shape.get(key, "")) for key in ("xtl", "ytl", "xbr", "ybr"))
            angle = float(shape.get("rotation") or 0)
            extra = {"attributes": {"rotation": angle}} if angle else {}
            found.box(image, label.strip(), [left, top, right - left, bottom - top], where, **extra)
        else:
            found.outline(image, label.strip(), *_corners(shape), where)
    except ValueError:
        found.no_box(image, f"{where}: a {shape.tag} without a box, or without a label")


def _corners(shape: ET.Element) -> tuple[list[float], list[float]]:
    """The x and the y of an outline's points."""
    if shape.tag == "polygon":
        points = [point.split(",") for point in shape.get("points", "").split(";")]
        return [float(point[0]) for point in points], [float(point[-1]) for point in points]
    keys = ("cx", "cy", "rx", "ry") if shape.tag == "ellipse" else ("left", "top", "width", "height")
    x, y, w, h = (float(shape.get(key, "")) for key in keys)
    return ([x - w, x + w], [y - h, y + h]) if shape.tag == "ellipse" else ([x, x + w], [y, y + h])


CVAT = Format("cvat", look_cvat, ("images", "annotations", "subset"), 2, read_cvat)
