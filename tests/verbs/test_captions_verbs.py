"""`data ground` and `data refer` write files that training takes and a drawing; a mistake is one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detr_mini.captions.captions_of_split import read_captions
from detr_mini.captions.from_boxes import WEIGHTS
from detr_mini.cli import main
from detr_mini.formats.coco import read_coco

ANIMALS = ({"id": 1, "name": "dog"}, {"id": 2, "name": "cat"})
BOXES = (
    {"bbox": [1, 1, 20, 20], "category_id": 1}, {"bbox": [30, 5, 9, 9], "category_id": 2},
    {"bbox": [5, 5, 9, 9], "category_id": 2, "image_id": 2},
)  # fmt: skip


@pytest.fixture
def pets(tmp_path: Path, make_coco: Callable[..., Any]) -> Path:
    """A COCO folder with a split val and captions of it."""
    make_coco("val", annotations=BOXES, categories=ANIMALS)
    captions = {
        "images": [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png"}],
        "annotations": [
            {"id": 1, "image_id": 1, "caption": "A dog beside a cat"},
            {"id": 2, "image_id": 2, "caption": "cats on a roof"},
            {"id": 3, "image_id": 2, "caption": "the kitten"},
            {"id": 4, "image_id": 2, "caption": "a moggy"},
        ],
    }
    (tmp_path / "annotations/captions_val.json").write_text(json.dumps(captions))
    return tmp_path


def ground(root: Path, *words: str) -> int:
    return main(["data", "ground", f"root={root}", "captions=annotations/captions_val.json", *words])


def test_captions_are_grounded_drawn_and_counted(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ground(pets, f"output={pets / 'out'}") == 0
    coco = read_coco(pets / "out/instances.json", pets / "val")
    found = read_captions(pets / "out/captions.json", coco)
    assert [len(found[image_id]) for image_id in (1, 2)] == [1, 1]
    with Image.open(pets / "out/captions.png") as drawing:
        assert drawing.width > 400
    shown = capsys.readouterr().out
    assert "several are named, one is labelled" in shown and "nouns linked" in shown


def test_nouns_may_come_from_a_file_or_the_command_line(pets: Path) -> None:
    (pets / "nouns.yaml").write_text("cat: [moggy]\n")
    for nouns in (str(pets / "nouns.yaml"), "{cat: [moggy]}"):
        assert ground(pets, f"output={pets / 'out'}", f"nouns={nouns}") == 0
        content = json.loads((pets / "out/captions.json").read_text())
        assert "a moggy" in {record["caption"] for record in content["images"]}


def test_a_file_that_has_boxes_already_is_written_as_it_is(pets: Path) -> None:
    assert ground(pets, f"output={pets / 'out'}") == 0
    (pets / "mdetr.json").write_text((pets / "out/captions.json").read_text())
    words = [f"root={pets}", "captions=mdetr.json", "boxes={images: val}", f"output={pets / 'again'}"]
    assert main(["data", "ground", *words]) == 0
    one, other = (json.loads((pets / folder / "captions.json").read_text()) for folder in ("out", "again"))
    assert [(r["caption"], r["file_name"]) for r in one["images"]] == [
        (r["caption"], r["file_name"]) for r in other["images"]
    ]
    assert [a["tokens_positive"] for a in one["annotations"]] == [a["tokens_positive"] for a in other["annotations"]]


def test_captions_of_missing_images_are_counted_whatever_their_format(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ground(pets, f"output={pets / 'out'}") == 0
    assert "captions of missing images" not in capsys.readouterr().out
    content = json.loads((pets / "out/captions.json").read_text())
    content["images"].append({**content["images"][0], "id": 99, "file_name": "gone.png"})
    content["annotations"].append({**content["annotations"][0], "id": 99, "image_id": 99})
    (pets / "mdetr.json").write_text(json.dumps(content))
    for boxes in ("{images: val}", "{images: val, annotations: annotations/val.json}"):
        words = [f"root={pets}", "captions=mdetr.json", f"boxes={boxes}", f"output={pets / 'again'}"]
        assert main(["data", "ground", *words]) == 0
        assert re.search(r"captions of missing images\D+1\D", capsys.readouterr().out)
        assert json.loads((pets / "again/captions.json").read_text())["info"]["left_out"] == {
            "captions of missing images": 1
        }


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["captions=none.json"], "there is no captions file"),
        (["nouns={dog: null}"], "nouns.dog is None; it must be a list of words"),
        (["nouns={dog: 3}"], "nouns.dog is 3; it must be a list of words"),
        (["nouns={dgo: [dog]}"], "nouns has 'dgo', which is none of the data's categories; did you mean 'dog'?"),
        (["nouns=my.yaml"], "nouns=my.yaml does not exist"),
        (["split=test"], "has no split test"),
        (["root=nowhere"], "nowhere"),
        (["nouns={cat: [roof]}", "captions=annotations/val.json"], "has no caption"),
    ],
)
def test_a_mistake_in_data_ground_gives_one_sentence(
    pets: Path, words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ground(pets, f"output={pets / 'out'}", *words) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1


def refer(root: Path, *words: str) -> int:
    return main(["data", "refer", f"root={root}", f"output={root / 'out'}", *words])


def test_captions_are_made_from_boxes(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refer(pets, "names={dog: [hound], cat: kitty}", "complete=[dog, cat]", "kinds={order: 0}", "each=1") == 0
    content = json.loads((pets / "out/captions.json").read_text())
    kinds = {record["kind"] for record in content["images"]}
    assert "relation" in kinds and "order" not in kinds
    assert any("hound" in record["caption"] for record in content["images"])
    assert "relation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "complete is None; name the categories whose objects all have a box"),
        (["complete=some"], "complete is 'some'"),
        (["complete=true"], "complete is True; name the categories"),
        (["complete=all", "names={dog: null}"], "names.dog is None; give a noun"),
        (["complete=all", "kinds={chain: null}"], "kinds.chain is None; it must be a number of at least 0"),
        (["complete=all", "kinds={chain: often}"], "kinds.chain is 'often'"),
        (["complete=all", f"kinds={{{', '.join(f'{kind}: 0' for kind in WEIGHTS)}}}"], "kinds leaves every kind"),
        (["complete=all", "names={god: hound}"], "names has 'god', which is none of the data's categories"),
        (["complete=all", "names=[dog]"], "names is ['dog']; it must be a section"),
        (["complete=all", "kinds={same: 1}"], "kinds.same is no kind that boxes decide"),
        (["complete=all", "each=0"], "each is 0"),
        (["complete=[]", "kinds={attribute: 0, relation: 0, compare: 0}"], "no caption can be made"),
    ],
)
def test_a_mistake_in_data_refer_gives_one_sentence(
    pets: Path, words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refer(pets, *words) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1


@pytest.mark.parametrize("verb", ["ground", "refer"])
def test_help_lists_their_settings(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", verb, "--help"]) == 0
    assert "output: outputs/" in capsys.readouterr().out


def test_captions_of_blood_cells_are_made(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = shared_data("bccd_voc")
    names = "names={RBC: red cell, WBC: white cell, Platelets: platelet}"
    words = [f"root={root}", "split=test", names, "complete=[WBC, Platelets]", f"output={tmp_path}", "each=1"]
    quick = "kinds={attribute: 0, chain: 0, order: 0, compare: 0, absent: 0}"
    assert main(["data", "refer", *words, quick]) == 0
    content = json.loads((tmp_path / "captions.json").read_text())
    assert min(content["info"]["kinds"].values()) > 10


def test_captions_are_grounded_in_a_yolo_dataset(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = shared_data("coco128_yolo")
    assert main(["data", "ground", f"root={root}", f"output={tmp_path}"]) == 0
    info = json.loads((tmp_path / "captions.json").read_text())["info"]
    assert info["captions"] == 641 and info["phrases"] > 400
