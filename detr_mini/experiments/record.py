"""The state of a sweep, kept in its folder as sweep.json, from which it can continue."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detr_mini.config.path_settings import quoted
from detr_mini.config.run_folder import is_unused, locked, new_run_folder, remove_unfinished, to_go_on, write_text
from detr_mini.errors import ConfigError

Outcome = tuple[int, str]
"""How a run ended: its exit status, and an error sentence unless that is 0."""
STATES = {0: "done", 2: "failed", 130: "stopped"}
"""By exit status; any other is "broken": a bug, or a killed process."""
LESS_IS_BETTER = ("seconds", "loss", "parameters", "doubles")
"""Measures whose names end so are better when smaller."""
KEPT = ("AP", "AP50", "AP75", "AP_low", "AP_high", "AP50_low", "AP50_high", "val/AP", "split", "seed", "train_seconds")


@dataclass
class Run:
    """One training. `words` are its settings, `folder` is relative to the sweep's, `metrics` holds KEPT of its
    metrics.json and the measure that orders the sweep."""

    words: list[str]
    folder: str
    state: str = "waiting"
    sentence: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)


class Record:
    """The runs of a sweep. Every change is written at once. Threads may share it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.runs: list[Run] = []
        self.swept: set[str] = set()
        """Settings with several values on the command line."""
        self.asked: list[Run] = []
        """The runs of this call; others are from earlier calls."""
        self.measure: str | None = None
        """The measure that orders the sweep; None: AP on val if there is a val, else AP."""
        self._differing: tuple[int, set[str]] = (0, set())
        """A number of runs, and the settings in which that many differ."""
        self._lock = threading.RLock()

    @classmethod
    @contextmanager
    def at(cls, folder: str | Path | None, name: str, measure: str | None = None) -> Iterator[Record]:
        """A new sweep in `folder` (None: outputs/<name>/<date and time>), or the existing one; locked inside.

        ConfigError if the folder holds something else, UserError if another process works there.
        """
        wanted = None if folder is None else Path(folder).expanduser()
        there = wanted is not None and wanted.exists() and not (wanted.is_dir() and is_unused(wanted))
        if wanted is not None and there and not (wanted / "sweep.json").is_file():
            raise ConfigError(f"{wanted} is not empty and not a sweep (no sweep.json); choose another sweep.folder")
        if wanted is None or not wanted.exists():
            wanted = new_run_folder("outputs", name, wanted, "sweep.folder")
        with locked(wanted):
            remove_unfinished(wanted)
            record = cls(wanted, name)
            record.measure = measure
            if (wanted / "sweep.json").is_file():
                record._read(wanted / "sweep.json")
            yield record

    def _read(self, file: Path) -> None:
        try:
            content = json.loads(file.read_bytes())
            self.name = content["name"]
            self.runs = [Run(**{k: row[k] for k in Run.__dataclass_fields__}) for row in content["runs"]]
            self.swept = set(content["swept"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file} was not written by a sweep ({error}); choose another folder") from error
        for run in self.runs:
            self._look(run)

    def run(self, words: Sequence[str]) -> Run:
        """The run with these settings: an existing one, or a new one."""
        with self._lock:
            run = next((run for run in self.runs if run.words == list(words)), None)
            if run is None:
                shown = "_".join(re.sub(r"[^\w.+-]+", "-", _last(word)).strip("-") for word in self.varied(words))
                run = Run(list(words), f"{len(self.runs)}_{shown or self.name}"[:60])
                self.runs.append(run)
                self.write()
            self.asked.append(run)
            return run

    def take(self, run: Run) -> bool:
        """Claim a run for the caller. False if it is done, or another thread trains it."""
        with self._lock:
            if run.state in ("done", "running"):
                return False
            run.state = "running"
            return True

    def begin(self, run: Run) -> list[str]:
        """Mark a run as running. The words that start it, or resume it from its last.ckpt."""
        with self._lock:
            run.state, run.sentence = "running", ""
            self.write()
        return start_or_go_on(run.words, self.path(run))

    def end(self, run: Run, outcome: Outcome) -> None:
        """Record how a run ended, and its metrics."""
        with self._lock:
            run.state, run.sentence = STATES.get(outcome[0], "broken"), outcome[1]
            if run.state == "done":
                self._look(run)
            self.write()

    def stop(self) -> None:
        """Mark every running run as stopped."""
        with self._lock:
            for run in self.runs:
                if run.state == "running":
                    run.state = "stopped"
            self.write()

    def path(self, run: Run) -> Path:
        """Its run folder."""
        return self.folder / run.folder

    def log(self, run: Run) -> Path:
        """The file for its output, if it is a process of its own."""
        return self.folder / f"{run.folder}.log"

    def _look(self, run: Run) -> None:
        """Read a run's state and metrics from its folder."""
        try:
            metrics = json.loads((self.path(run) / "metrics.json").read_bytes())
        except (OSError, ValueError):  # missing, or cut off by a kill
            lost = run.metrics or not self.path(run).is_dir()  # without val and test nothing is measured
            if run.state == "running" or (run.state == "done" and lost):
                run.state = "waiting"
            return
        run.state, run.sentence = "done", ""
        run.metrics = {key: metrics.get(key) for key in (*KEPT, *filter(None, [self.measure]))}

    def varied(self, words: Sequence[str]) -> list[str]:
        """The words of a run in which the runs differ."""
        if self._differing[0] != len(self.runs):  # asked once for every run, at every change
            every = [set(run.words) for run in self.runs]
            common = set.intersection(*every)
            self._differing = len(every), {key_of(word) for own in every for word in own - common}
        differing = self._differing[1]
        last = {key_of(word): word for word in words}  # if a setting is given twice, the last one counts
        return [word for key, word in last.items() if key in self.swept | differing]

    def title(self, run: Run) -> str:
        """A short name for the run."""
        return " ".join(self.varied(run.words)) or self.name

    def choice(self, run: Run) -> str:
        """The same without the seed: runs of one choice repeat it with other seeds."""
        return ", ".join(word for word in self.varied(run.words) if key_of(word) != "seed") or self.name

    def choices(self) -> dict[str, list[Run]]:
        """All runs by choice."""
        found: dict[str, list[Run]] = {}
        for run in self.runs:
            found.setdefault(self.choice(run), []).append(run)
        return found

    def goes_by(self) -> str:
        """The measure that orders the choices, and that a search optimises."""
        if self.measure is not None:
            return self.measure
        return "val/AP" if any(run.metrics.get("val/AP") is not None for run in self.runs) else "AP"

    def less_is_better(self) -> bool:
        """Whether the measure is a time, a loss or a size."""
        return self.goes_by().endswith(LESS_IS_BETTER)

    def merit(self, value: float) -> float:
        """The measure's value with a sign such that larger is better."""
        return -value if self.less_is_better() else value

    def about(self) -> str:
        """A title: the sweep's name, its number of finished runs, and their split."""
        done = [run for run in self.runs if run.state == "done"]
        splits = sorted({str(run.metrics.get("split")) for run in done})
        return f"{self.name}: {len(done)} runs on {' and '.join(splits)}"

    def write(self, **more: Any) -> None:
        """Write sweep.json, which is complete at any moment."""
        runs = [{**asdict(run), "choice": self.choice(run)} for run in self.runs]
        content = {"name": self.name, "swept": sorted(self.swept), "measure": self.goes_by(), "runs": runs, **more}
        with self._lock:  # a run that ends on Ctrl-C may be noted at this moment
            write_text(self.folder / "sweep.json", json.dumps(content, indent=1))


def start_or_go_on(words: Sequence[str], folder: Path) -> list[str]:
    """Words that train in `folder`, from the start or from its last.ckpt."""
    if to_go_on(folder):
        return [f"resume={folder}", *(word for word in words if key_of(word) == "modules")]  # no run keeps those
    return [*words, f"run_folder={quoted(str(folder))}"]


def key_of(word: str) -> str:
    """The setting that a word sets."""
    return word.lstrip("+~").partition("=")[0]


def _last(word: str) -> str:
    """optim.optimizer.lr=0.02 in short: lr-0.02."""
    key, _, value = word.partition("=")
    return f"{key.split('.')[-1]}-{value}"
