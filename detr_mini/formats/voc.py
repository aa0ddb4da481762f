"""Pascal VOC: an XML file an image, corners that count pixels from 1 (Everingham et al. 2010, development kit)."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Container, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, localcontext
from pathlib import Path
from sys import intern
from typing import Any
from xml.etree import ElementTree as ET

from detr_mini.categories import Categories
from detr_mini.errors import ConfigError, DataError
from detr_mini.formats.box_rules import MOST_PIXELS
from detr_mini.formats.faults import Fault, Fix, Kind
from detr_mini.formats.listing import Listing, Pairs, Stems, is_image_name
from detr_mini.formats.path_words import parts_of, spelling, stem_of
from detr_mini.formats.tree import EXACT, Tree, image_ids
from detr_mini.formats.values import as_flag, as_number, is_number, is_text
from detr_mini.progress import BAR_FROM, track
from detr_mini.safe_files import (
    MOST_LABELS,
    has_suffix,
    is_file,
    name_fault,
    read_bytes,
    read_text,
    reason,
    shown,
)

CORNERS = ("xmin", "ymin", "xmax", "ymax")
CATEGORIES = "categories.txt"
"""Beside a tree that we wrote: an id and a name a line, so that both survive."""
FLAGS = ("truncated", "difficult", "occluded")
Corners = tuple[Decimal, Decimal, Decimal, Decimal]
_LONGEST_NUMBER = 200
"""Characters; our own writer needs about 60."""


def read_voc(
    root: Path,
    images: str = "JPEGImages",
    annotations: str = "Annotations",
    list: str | None = None,
    *,
    first_pixel: str | int = "auto",
    difficult: str = "keep",
    categories: Categories | None = None,
) -> Tree:
    """The files of `root`/`list` (all where None): boxes as xywh in pixels counted from 0.

    VOC counts from 1 and includes the last pixel: a box over a whole 200 x 100 image is 1, 1, 200, 100. Many tools
    write edges counted from 0 instead. `first_pixel`: 1, 0, or "auto": a file with a corner at 0 counts from 0, the
    others from 1. `difficult`: "keep" objects marked so, or "ignore" them as crowd regions. `categories`: names that
    have an id already; where None, those of `root`/categories.txt. All others get the next ids, by name.
    """
    if str(first_pixel) not in ("auto", "0", "1"):
        raise ConfigError(f"data.first_pixel is {first_pixel!r}; it must be 'auto', 0 or 1")
    if difficult not in ("keep", "ignore"):
        raise ConfigError(f"data.difficult is {difficult!r}; it must be 'keep' or 'ignore'")
    files, xmls = root / images, root / annotations
    for folder, what in ((files, "images"), (xmls, "annotations")):
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}; check data.root and data.train.{what}")
    image_of, xml_of = Stems(Listing(files).images), Stems(Listing(xmls).ending(".xml"))
    lines = _listed(root / list, image_of.known | xml_of.known) if list else sorted({_stem(p) for p in xml_of.paths})
    stems = [*dict.fromkeys(lines)]
    if not stems:
        raise DataError(f"the list {root / list} is empty; give a split with images" if list else
                        f"there is no XML file in {xmls}; check data.root and data.train.annotations")  # fmt: skip
    tree = Tree({"images": [], "annotations": [], "categories": []}, files, root / list if list else xmls)
    pairs = Pairs(image_of, xml_of)
    found = {stem: _belonging(stem, pairs) for stem in stems}
    images_of, xmls_of = ({stem: own[side] for stem, own in found.items()} for side in (0, 1))
    for stem in stems:
        if images_of[stem] or xmls_of[stem]:
            continue
        if fault := name_fault(stem, xmls, root) or name_fault(stem, files, root):
            raise DataError(f"{root / list if list else xmls} lists {shown(stem)}, which {fault}; list file names "
                            "without ending, as they are in the folder of the annotations")  # fmt: skip
    twice = [stem for stem, count in Counter(lines).items() if count > 1]
    tree.faults.extend(Fault(Kind.LISTED_TWICE, f"{stem} in {list}", stem, Fix.LISTED_ONCE) for stem in twice)
    files_of = {stem: _only(xmls_of[stem], stem, xmls) or f"{stem}.xml" for stem in stems}
    read = []
    for stem in track(stems, "Reading the XML files", at_least=BAR_FROM):
        place = f"{annotations}/{files_of[stem]}"
        element = _parse(xmls / files_of[stem], [*images_of[stem], f"{stem}.jpg"][0], tree.faults)
        name = _image_name(stem, images_of[stem], element, files, root, pairs, tree.faults)
        read.append(_read_file(element, name, place, first_pixel, tree.faults))
    ids = _category_ids(frozenset().union(*(file.names for file in read)), categories, root / CATEGORIES)
    claims = Counter(file.said for stem, file in zip(stems, read, strict=True)
                     if file.said and Path(file.said).stem != posixpath.basename(stem))  # fmt: skip
    from_zero = marked = 0
    for stem, file, image_id in zip(stems, read, image_ids([file.name for file in read]), strict=True):
        height, width = file.size
        tree.content["images"].append({"id": image_id, "file_name": file.name, "height": height, "width": width})
        said, place = file.said, f"{annotations}/{files_of[stem]}"
        if said and spelling(_plain_stem(said)) not in (
            spelling(stem_of(file.name)),
            spelling(posixpath.basename(stem)),
        ):
            # one XML file that names another image of the set may hold the boxes of that one
            named = image_of.find(_stem("/".join(parts_of(said))))
            doubtful = claims[said] == 1 and any(other != file.name for other in named)
            text = f"{place} says {said}{', which is another image' if doubtful else ''}"
            fix = Fix.LEFT_OUT if doubtful else Fix.IMAGE_OF_XML_NAME
            tree.faults.append(Fault(Kind.OTHER_NAME_IN_XML, text, file.name, fix))
        if file.from_zero and file.boxes:
            from_zero += 1
            tree.faults.append(Fault(Kind.CORNER_AT_ZERO, place, file.name, Fix.COUNTS_FROM_ONE))
        for box in file.boxes:
            number = len(tree.content["annotations"]) + 1
            annotation = {"id": number, "image_id": image_id, "category_id": ids[box.pop("category")], **box}
            marked += annotation.get("difficult", 0)
            if difficult == "ignore" and annotation.get("difficult"):
                annotation["iscrowd"] = 1
            tree.content["annotations"].append(annotation)
        file.boxes.clear()  # each box is in memory once
    tree.content["categories"] += [{"id": i, "name": name} for name, i in sorted(ids.items(), key=lambda kv: kv[1])]
    used = set(files_of.values())
    if list:
        others = (path for path in sorted((root / list).parent.glob("*.txt")) if not path.name.startswith("."))
        for path in others:
            with suppress(DataError):  # the text files beside the list may be anything
                used |= {file for stem in _listed(path, xml_of.known) for file in xml_of.find(stem)}
    for name in sorted(set(xml_of.paths) - used):
        if not pairs.images_of(name):
            place = f"{annotations}/{name}"
            tree.faults.append(Fault(Kind.NO_IMAGE_FOR_LABELS, f"{place} belongs to no image", place, Fix.LEFT_OUT))
    if from_zero and str(first_pixel) == "auto":
        tree.notices.append(
            f"{from_zero} of {len(stems)} files have a corner at 0 and are read as edges counted from 0, the others as "
            "VOC's pixels counted from 1; where one tool wrote them all, set data.first_pixel=0"
        )
    if marked:
        fate = "ignored (crowd)" if difficult == "ignore" else "kept (data.difficult=ignore leaves them out)"
        tree.notices.append(f"{marked} objects are marked as difficult and {fate}")
    return tree


def _stem(path: str) -> str:
    return posixpath.splitext(path)[0]


def _belonging(stem: str, pairs: Pairs) -> tuple[list[str], list[str]]:
    """The images and the XML files of a stem, without those of another one in another folder.

    Where no two of them belong together, one side is missing: the images, if an XML file has this very path.
    """
    images, xmls = pairs.named(stem)
    if not images or not xmls or [_stem(path) for path in images] == [_stem(path) for path in xmls]:
        return images, xmls
    partners = {xml: set(pairs.images_of(xml)) & set(images) for xml in xmls}
    if paired := set[str]().union(*partners.values()):
        return [image for image in images if image in paired], [xml for xml in xmls if partners[xml]]
    return ([], xmls) if spelling(stem) in {spelling(_stem(xml)) for xml in xmls} else (images, [])


def _only(found: Sequence[str], stem: str, folder: Path) -> str | None:
    """The first of some files of one name in one folder; DataError where they lie in several."""
    if len({posixpath.dirname(path) for path in found}) > 1:
        raise DataError(f"{stem} may be {found[0]} or {found[1]} in {folder}; give each file its own name, or put the "
                        "XML files in folders like those of their images")  # fmt: skip
    return found[0] if found else None


def _image_name(
    stem: str, found: Sequence[str], root: ET.Element | None, images: Path, folder: Path, pairs: Pairs,
    faults: list[Fault],
) -> str:  # fmt: skip
    """The image of an XML file: the one of its name, of several the one that the XML names; else the one it names."""
    said = parts_of(_said_name(root) or "")
    exact = [name for name in found if said and posixpath.basename(name) == said[-1]]
    if name := _only(exact or found, stem, images):
        return name
    # where it says its own name, the image of that name has been looked for: one in another folder is another image
    named = bool(said) and spelling(stem_of(said[-1])) != spelling(posixpath.basename(stem))
    other = pairs.images.find(_stem("/".join(said))) if named else []
    if len(other) == 1 and not pairs.are_apart(other[0], f"{stem}.xml"):
        return other[0]
    return _name_in_xml(root, stem, folder, images, faults)


def _listed(listing: Path, known: Container[str]) -> list[str]:
    """The stems in a list file. `known`: those of the files that are there."""
    try:
        lines = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
    except FileNotFoundError:
        raise DataError(f"there is no list {listing}; check data.root, or set data.train.list=null for all "
                        "files") from None  # fmt: skip
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {listing} cannot be read ({reason(error)}); it has a file name without ending a "
                        "line") from None  # fmt: skip
    # the lists of one class have 1, 0 or -1 behind every name; a name may end so, too
    flagged = all(re.search(r"\s-?[01]$", line) for line in lines)
    stems = []
    for line in lines:
        if line in known:  # a stem may end like a file name: frame.png of frame.png.jpg
            stems.append(line)
            continue
        name, flagless = _without_ending(line), _without_ending(re.sub(r"\s+-?[01]$", "", line))
        stems.append(flagless if name not in known and (flagless in known or flagged) else name)
    return stems


def _without_ending(name: str) -> str:
    return name.rpartition(".")[0] if has_suffix(name, ".xml") or is_image_name(name) else name


def _parse(path: Path, image: str, faults: list[Fault]) -> ET.Element | None:
    try:
        return ET.fromstring(read_bytes(path, MOST_LABELS))
    except FileNotFoundError:
        text = f"{image}: there is no {path.name} in {path.parent.name}"
        faults.append(Fault(Kind.NO_LABEL_FILE, text, image))
    except (ET.ParseError, OSError, ValueError, LookupError, RecursionError) as error:
        text = f"{path} is not whole XML ({reason(error)})"
        faults.append(Fault(Kind.BROKEN_FILE, text, image, Fix.LEFT_OUT))
    return None


def _said_name(root: ET.Element | None) -> str | None:
    name = None if root is None else root.findtext("filename")
    return name.strip() if name and name.strip() else None


def _plain_stem(name: str) -> str:
    """The stem of a path of any system, accents composed."""
    base = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    return _without_ending(base) if is_image_name(base) else Path(base).stem


def _name_in_xml(root: ET.Element | None, stem: str, folder: Path, images: Path, faults: list[Fault]) -> str:
    """The image's name where no image has the XML's: as the XML says, if that is a name below the folder.

    A name without a folder is one in the folder that is called like the XML's.
    """
    own = "/".join(parts_of(stem))
    name, default = _said_name(root), f"{own}.jpg"
    if name is None:
        return default
    if fault := name_fault(name, images, folder):
        faults.append(Fault(Kind.OTHER_NAME_IN_XML, f"{stem}.xml says {shown(name)}, which {fault}", default))
        return default
    return name if "/" in name or "\\" in name else posixpath.join(posixpath.dirname(own), name)


def _size(root: ET.Element | None) -> tuple[int, int]:
    try:
        said = [] if root is None else [int(float(root.findtext(f"size/{key}") or 0)) for key in ("height", "width")]
    except (ValueError, OverflowError):
        said = []
    return (said[0], said[1]) if said and max(said) <= MOST_PIXELS else (0, 0)


def _name(thing: ET.Element) -> str:
    return unicodedata.normalize("NFC", (thing.findtext("name") or "").strip())


def _category_ids(found: Set[str], categories: Categories | None, file: Path) -> dict[str, int]:
    ids = {} if categories is None else dict(zip(categories.names, categories.ids, strict=True))
    if categories is None and is_file(file):
        try:
            lines = [line.partition(" ") for line in read_text(file).splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read ({reason(error)}); it has an id and a name a line") from None
        ids = {name: int(number) for number, _, name in lines if re.fullmatch("[0-9]{1,18}", number) and name}
    highest = max(ids.values(), default=0)
    return ids | {name: highest + k for k, name in enumerate(sorted(found - set(ids)), start=1)}


@dataclass(frozen=True, slots=True)
class _File:
    """What one XML file says."""

    name: str
    """Its image."""
    said: str | None
    """The file name in it."""
    size: tuple[int, int]
    from_zero: bool
    boxes: list[dict[str, Any]]
    """As COCO has them, with the name of the `category`."""
    names: frozenset[str]
    """The categories of all its objects, those without a usable box too."""


def _read_file(root: ET.Element | None, name: str, place: str, first_pixel: str | int, faults: list[Fault]) -> _File:
    things = [] if root is None else root.findall("object")
    names = [intern(_name(thing)) for thing in things]
    found = _objects(things, names, place, name, faults)
    zero = _counts_from_zero(root, [corners for _, _, corners, _, _ in found], first_pixel)
    boxes = [
        {"category": category, "bbox": _xywh(corners, 0 if zero else 1, decimal), "iscrowd": 0,
         **_extra(thing, where, name, faults), "where": where}
        for thing, category, corners, decimal, where in found
    ]  # fmt: skip
    return _File(name, _said_name(root), _size(root), zero, boxes, frozenset(names) - {""})


def _objects(
    things: Sequence[ET.Element], names: Sequence[str], where: str, image: str, faults: list[Fault]
) -> list[tuple[ET.Element, str, Corners, bool, str]]:
    """Each usable object with its name, its corners, whether they are written with a decimal point, and its place."""
    found = []
    for number, (thing, name) in enumerate(zip(things, names, strict=True), start=1):
        place = f"object {number} of {where}"
        texts = [(thing.findtext(f"bndbox/{key}") or "").strip() for key in CORNERS]
        try:
            a, b, c, d = (Decimal(text[:_LONGEST_NUMBER]) for text in texts)
            usable = all(v.is_finite() and -MOST_PIXELS <= v <= MOST_PIXELS for v in (a, b, c, d))
        except InvalidOperation:
            usable = False
        if not usable:
            faults.append(
                Fault(Kind.BOX_WITHOUT_NUMBERS, f"{place}: bndbox {shown(texts)}", image, Fix.LEFT_OUT, boxes=1)
            )
        elif not name:
            faults.append(Fault(Kind.BOX_WITHOUT_NUMBERS, f"{place}: no name", image, Fix.LEFT_OUT, boxes=1))
        else:
            found.append((thing, name, (a, b, c, d), any("." in text for text in texts), place))
    return found


def _counts_from_zero(root: ET.Element | None, corners: Sequence[Corners], first_pixel: str | int) -> bool:
    said = None if root is None else root.findtext("first_pixel")
    if said in ("0", "1"):
        return said == "0"
    if str(first_pixel) != "auto":
        return str(first_pixel) == "0"
    return any(xmin == 0 or ymin == 0 for xmin, ymin, _, _ in corners)


def _xywh(corners: Corners, first: int, decimal: bool) -> list[float]:
    """A corner pair of whole numbers without extent is a click and no pixel: its width is 0, not 1."""
    left, top, right, bottom = corners
    with localcontext(EXACT):
        extent = [high - low + (first if decimal or high > low else 0) for low, high in ((left, right), (top, bottom))]
        return [float(left - first), float(top - first), float(extent[0]), float(extent[1])]


def _extra(thing: ET.Element, place: str, image: str, faults: list[Fault]) -> dict[str, Any]:
    """Flags, crowd and area (our own writer's), and CVAT's angle beside an unturned box."""
    extra: dict[str, Any] = {}
    for key in (*FLAGS, "iscrowd"):
        text = (thing.findtext(key) or "").strip()
        flag = int(text) if text in ("0", "1") else as_flag({"true": 1, "false": 0}.get(text.lower(), text))
        if flag in (0, 1):
            extra[key] = flag
        elif key == "iscrowd" and text:
            extra[key] = text  # refused, as in COCO
        elif key == "difficult" and text.lower() not in ("", "unspecified"):
            text = f"{place}: difficult {shown(text)} is neither 0 nor 1"
            faults.append(Fault(Kind.NUMBER_AS_TEXT, text, image, Fix.NUMBER, "0"))
    pose = (thing.findtext("pose") or "").strip()
    if pose and pose != "Unspecified":
        extra["pose"] = pose
    area = as_number(thing.findtext("area"))
    if is_number(area):
        extra["area"] = area
    for attribute in thing.findall("attributes/attribute"):
        if attribute.findtext("name") == "rotation":
            extra["attributes"] = {"rotation": attribute.findtext("value")}
    return extra


def voc_xml(image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> str:
    """A VOC file of a COCO image record and its annotations; `read_voc` gives the very same boxes back."""
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = str(image["file_name"])
    ET.SubElement(root, "first_pixel").text = "1"
    size = ET.SubElement(root, "size")
    for key, value in (("width", image["width"]), ("height", image["height"]), ("depth", 3)):
        ET.SubElement(size, key).text = str(value)
    for annotation in annotations:
        thing = ET.SubElement(root, "object")
        ET.SubElement(thing, "name").text = names[annotation["category_id"]]
        pose = annotation.get("pose")
        ET.SubElement(thing, "pose").text = pose if is_text(pose) else "Unspecified"
        crowd = as_flag(annotation.get("iscrowd"))
        for key in FLAGS:
            if key in annotation or key == "difficult":
                flag = as_flag(annotation.get(key, crowd))
                ET.SubElement(thing, key).text = str(flag if flag in (0, 1) else 0)
        if crowd:
            ET.SubElement(thing, "iscrowd").text = "1"
        _, _, w, h = annotation["bbox"]
        if is_number(annotation.get("area")) and annotation["area"] != w * h:
            ET.SubElement(thing, "area").text = repr(annotation["area"])
        box = ET.SubElement(thing, "bndbox")
        for key, text in zip(CORNERS, _corner_texts([float(v) for v in annotation["bbox"]]), strict=True):
            ET.SubElement(box, key).text = text
        attributes = annotation.get("attributes")
        angle = attributes.get("rotation") if isinstance(attributes, Mapping) else None
        if angle and is_number(as_number(angle)):
            attribute = ET.SubElement(ET.SubElement(thing, "attributes"), "attribute")
            ET.SubElement(attribute, "name").text, ET.SubElement(attribute, "value").text = "rotation", str(angle)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _corner_texts(box: Sequence[float]) -> list[str]:
    """`_xywh` backwards. Whole numbers where all are and the box has pixels; decimal arithmetic, so nothing is lost."""
    x, y, w, h = (Decimal(repr(v)) for v in box)
    whole = all(v == v.to_integral_value() for v in (x, y, w, h)) and all(v <= 0 or v >= 2 for v in (w, h))
    with localcontext(EXACT):
        ends = [low + (extent + 1 if whole and extent <= 0 else extent) for low, extent in ((x, w), (y, h))]
        values = [x + 1, y + 1, *ends]
    if whole:
        return [str(int(v)) for v in values]
    texts = [format(v, "f") for v in values]
    return [text if "." in text else f"{text}.0" for text in texts]
