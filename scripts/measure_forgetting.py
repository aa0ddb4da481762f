"""How much a detector forgets when it learns more categories, with and without `keep_categories`.

    python scripts/measure_forgetting.py SETS OUTPUT [minutes] [set ...]

SETS is the folder with odinw_aquarium and bccd_voc (or with the sets that are named); OUTPUT gets the runs, and
forgetting.json with the table. Each set is trained four times, each for `minutes` (20), with one seed: on the first
half of its categories; on all of them; and from the first on the labels of the second half alone, with the switch and
without (the head has the rows of all categories in both). A run that is finished is not trained again.
AP is that of test where there is one, else of val.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import detr_mini
from detr_mini.evaluation.report.table import markdown
from detr_mini.formats.discover import Source
from detr_mini.formats.tree import Tree

SETS = ("odinw_aquarium", "bccd_voc")


def main(sets: Path, output: Path, minutes: float, names: tuple[str, ...]) -> None:
    """Train, measure and print."""
    table = {name: measured(sets / name, output / name, minutes) for name in names}
    (output / "forgetting.json").write_text(json.dumps(table, indent=1))
    rows = [[name, *(f"{value:.3f}" for value in row.values())] for name, row in table.items()]
    print(markdown(["set", *next(iter(table.values()))], rows))


def measured(root: Path, output: Path, minutes: float) -> dict[str, float]:
    """AP of the old and the new categories of one set, before and after."""
    trees = Source.found(root).trees()
    names = categories(trees)
    old, new = names[: (len(names) + 1) // 2], names[(len(names) + 1) // 2 :]
    data = {"all": annotated(trees, output / "data_all", names), "old": annotated(trees, output / "data_old", old),
            "new": annotated(trees, output / "data_new", new)}  # fmt: skip
    runs = {"all": trained(data["all"], output / "all", minutes), "old": trained(data["old"], output / "old", minutes)}
    for word, keep in (("kept", True), ("naive", False)):
        more = {"init": str(runs["old"]), "keep_categories": keep}
        runs[word] = trained(data["new"], output / word, minutes, **more)
    before, joint = ap(runs["old"], data["all"], old), ap(runs["all"], data["all"], new)
    found = {f"{word} {half}": ap(runs[word], data["all"], part)
             for word in ("kept", "naive") for half, part in (("old", old), ("new", new))}  # fmt: skip
    return {
        "old before": before, "new, trained on all": joint, **found,
        "kept old / before": found["kept old"] / before, "kept new / all": found["kept new"] / joint,
        "naive old / before": found["naive old"] / before,
    }  # fmt: skip


def categories(trees: Mapping[str, Tree]) -> list[str]:
    """Names of the categories with boxes, in alphabetical order."""
    content = trees["train"].content
    used = {a["category_id"] for a in content["annotations"]}
    return sorted(c["name"] for c in content["categories"] if c["id"] in used)


def annotated(trees: Mapping[str, Tree], folder: Path, labelled: list[str]) -> Path:
    """The set in COCO's form with all categories listed and only boxes of `labelled`, in val too: nothing is chosen by
    labels that a person who has only these would not have."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tree in trees.items():
        numbers = {c["id"]: c["name"] for c in tree.content["categories"]}
        kept = [a for a in tree.content["annotations"] if numbers[a["category_id"]] in labelled]
        images = [dict(image) for image in tree.content["images"]]
        for image in images:
            if image["id"] in tree.sizes:
                image["height"], image["width"] = tree.sizes[image["id"]]
        (folder / f"{name}.images").write_text(str(Path(tree.folder).resolve()))
        (folder / f"{name}.json").write_text(json.dumps({**tree.content, "images": images, "annotations": kept}))
    return folder


def splits(data: Path) -> dict[str, Any]:
    """The settings of a set written by `annotated`."""
    found = {name: {"images": (data / f"{name}.images").read_text(), "annotations": f"{name}.json"}
             if (data / f"{name}.json").exists() else None for name in ("train", "val", "test")}  # fmt: skip
    return {"root": str(data), "format": "coco", **found}


def trained(data: Path, folder: Path, minutes: float, **more: Any) -> Path:
    """A run of experiment=finetune; one that is finished stays."""
    if (folder / "metrics.json").exists():
        return folder
    return detr_mini.train(experiment="finetune", seed=0, run_folder=str(folder), resume="auto",
                           trainer={"max_minutes": minutes}, data=splits(data), **more)  # fmt: skip


def ap(run: Path, data: Path, names: list[str]) -> float:
    """AP of some categories on test, or on val where there is none."""
    split = "test" if (data / "test.json").exists() else "val"
    folder = detr_mini.evaluate(checkpoint=str(run), split=split, data=splits(data), subset={"categories": names})
    return float(json.loads((folder / "metrics.json").read_text())["AP"])


if __name__ == "__main__":
    _, sets, output, *rest = sys.argv
    main(Path(sets), Path(output), float(rest[0]) if rest else 20.0, tuple(rest[1:]) or SETS)
