"""Simulates the loop of labelling on a set that is labelled: pictures chosen by `data next` beside pictures at random.

    python scripts/labelling_loop.py DATA OUTPUT [--first 50] [--add 25] [--rounds 2] [--seeds 0,1,2] [SETTING ...]

DATA needs train and val or test. For each seed, a detector is trained on FIRST pictures; then, ROUNDS times, ADD more
are chosen by each strategy, and a detector is trained on all of them. SETTINGs are those of `train`
(trainer.max_minutes=10, or trainer.max_steps=... for a test). AP is that of metrics.json. For each batch that is
chosen, the boxes to touch are counted where its pre-labels are corrected (a box of the right name with an IoU of 0.8
need not be touched), beside the boxes to draw without pre-labels. OUTPUT/loop.json, loop.png and the runs are written;
the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detr_mini.config.compose import compose
from detr_mini.config.words import in_hydra
from detr_mini.data.tree_parts import owned_names
from detr_mini.drawing.evaluation_plots import learning_curve
from detr_mini.formats.discover import Source
from detr_mini.formats.tree import Tree
from detr_mini.formats.writing import owned_by
from detr_mini.inference.detector import Detector, load
from detr_mini.inference.sources import Source as Picture
from detr_mini.labelling.corrections import compare
from detr_mini.labelling.next_pictures import next_pictures
from detr_mini.labelling.prelabels import find_in, record_of
from detr_mini.seeding import drawing_order
from detr_mini.training.run import train

STRATEGIES = ("next", "random")
KEPT_IOU = 0.8


@dataclass(frozen=True)
class Loop:
    """What is the same in all rounds."""

    root: Path
    output: Path
    tree: Tree
    words: tuple[str, ...]
    add: int

    def detector(self, names: Sequence[str], run: Path, seed: int) -> tuple[Detector, dict[str, Any]]:
        """Train on these pictures, or read the finished run; the detector and its metrics."""
        if not (run / "metrics.json").is_file():
            words = ["experiment=finetune", f"data.root={self.root}", *self.words, f"run_folder={run}", "resume=auto",
                     f"seed={seed}", f"data.subset={{ids: {in_hydra(sorted(names))}}}"]  # fmt: skip
            train(compose("train", words))
        return load(run), json.loads((run / "metrics.json").read_text(encoding="utf-8"))

    def chosen(self, strategy: str, detector: Detector, labelled: Sequence[str], file: Path, seed: int) -> list[str]:
        """The next pictures; they are kept in `file`, so that a run that goes on has the same ones."""
        if file.is_file():
            return list(json.loads(file.read_text(encoding="utf-8")))
        rest = sorted(set(owned_names(self.tree)[1].values()) - set(labelled))
        if strategy == "random":
            names = sorted(rest, key=lambda name: drawing_order(seed, name))[: self.add]
        else:
            pictures = [Picture(self.tree.folder / name, name) for name in rest]
            known = [self.tree.folder / name for name in labelled]
            least = detector.operating_point.threshold
            names = [p.name for p in next_pictures(detector, pictures, known, self.add, least, 8).found.sources]
        file.write_text(json.dumps(names), encoding="utf-8")
        return names

    def touched(self, detector: Detector, names: Sequence[str]) -> dict[str, float]:
        """Boxes to touch for each picture with pre-labels, and boxes to draw without."""
        labels = {c["id"]: c["name"] for c in self.tree.content["categories"]}
        owned = owned_by(self.tree)
        truth = {image["file_name"]: [(labels[a["category_id"]], a["bbox"]) for a in owned[image["id"]]]
                 for image in self.tree.content["images"]}  # fmt: skip
        least = detector.operating_point.threshold
        found = find_in(detector, [Picture(self.tree.folder / name, name) for name in names], least)
        counts: Counter[str] = Counter()
        for picture in record_of(found)["pictures"]:
            before = [(box["name"], box["bbox"]) for box in picture["boxes"]]
            counts.update(kind for kind, _ in compare(before, truth[picture["file_name"]], KEPT_IOU))
        corrected = sum(counts.values()) - counts["kept"]
        drawn = sum(len(truth[name]) for name in names)
        return {"corrected": corrected / len(names), "drawn": drawn / len(names), **counts}


def simulate(loop: Loop, first: int, rounds: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each training: strategy, seed, pictures, AP and AP50, and what the batch before it cost."""
    files = sorted(owned_names(loop.tree)[1].values())
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        start = sorted(files, key=lambda name: drawing_order(seed, f"start {name}"))[:first]
        folder = loop.output / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        begun = loop.detector(start, folder / f"{first}-pictures", seed)
        for strategy in STRATEGIES:
            labelled, (detector, metrics) = list(start), begun
            rows.append(_row(strategy, seed, labelled, metrics, {}))
            for _ in range(rounds):
                total = len(labelled) + loop.add
                names = loop.chosen(strategy, detector, labelled, folder / f"{strategy}-{total}.json", seed)
                cost = loop.touched(detector, names)
                labelled += names
                detector, metrics = loop.detector(labelled, folder / f"{strategy}-{total}-pictures", seed)
                rows.append(_row(strategy, seed, labelled, metrics, cost))
                write(rows, loop.output)
    return rows


def _row(
    strategy: str, seed: int, labelled: Sequence[str], metrics: dict[str, Any], cost: dict[str, float]
) -> dict[str, Any]:
    scores = {name: metrics.get(name) for name in ("AP", "AP50", "split")}
    return {"strategy": strategy, "seed": seed, "pictures": len(labelled), **scores, "boxes": cost}


def write(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """loop.json with all rows, loop.png with the mean and the range of AP over the seeds."""
    (output / "loop.json").write_text(json.dumps(list(rows), indent=1), encoding="utf-8")
    counts = sorted({row["pictures"] for row in rows})
    values, bands = {}, {}
    for strategy in STRATEGIES:
        each = [[row["AP"] for row in rows if row["strategy"] == strategy and row["pictures"] == count]
                for count in counts]  # fmt: skip
        there = [[ap for ap in own if ap is not None] for own in each]
        values[f"AP, {strategy}"] = [statistics.mean(own) if own else None for own in there]
        bands[f"AP, {strategy}"] = [(min(own), max(own)) if own else None for own in there]
    learning_curve(counts, values, bands, output / "loop.png", "pictures chosen by data next and at random")


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print AP by strategy and number of pictures, and the boxes to touch."""
    for strategy in STRATEGIES:
        for count in sorted({row["pictures"] for row in rows}):
            own = [row for row in rows if row["strategy"] == strategy and row["pictures"] == count]
            scores = " ".join("none " if row["AP"] is None else f"{row['AP']:.3f}" for row in own)
            costs = [row["boxes"] for row in own if row["boxes"]]
            text = ""
            if costs:
                corrected, drawn = (statistics.mean(c[key] for c in costs) for key in ("corrected", "drawn"))
                text = f"; boxes a picture: {corrected:.1f} to touch with pre-labels, {drawn:.1f} to draw without"
            print(f"{strategy:7} {count:4} pictures: AP {scores}{text}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    for name, usual in (("first", 50), ("add", 25), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--seeds", default="0,1,2")
    given, words = parser.parse_known_args(argv)
    tree = Source.found(given.data).trees()["train"]
    wanted, there = given.first + given.rounds * given.add, len(tree.content["images"])
    if there < wanted:
        parser.error(f"train of {given.data} has {there} pictures, and the loop needs {wanted} (--first and --rounds "
                     "times --add); lower them, or give a larger dataset")  # fmt: skip
    loop = Loop(given.data.resolve(), given.output.resolve(), tree, tuple(words), given.add)
    given.output.mkdir(parents=True, exist_ok=True)
    rows = simulate(loop, given.first, given.rounds, [int(seed) for seed in given.seeds.split(",")])
    write(rows, given.output)
    report(rows)


if __name__ == "__main__":
    main()
