"""`detr-mini report`: one HTML file about a run, or about several, that needs nothing else to be read."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from detr_mini import __version__
from detr_mini.config.run_folder import whole
from detr_mini.errors import UserError, printable
from detr_mini.evaluation.report.table import number, with_interval
from detr_mini.pages.charts import HEIGHT, WIDTH
from detr_mini.pages.judged import Judged
from detr_mini.pages.run_reader import Part, RunFolder, part
from detr_mini.pages.settings import command, shell_line
from detr_mini.pages.several import several
from detr_mini.pages.tried import attention, latency, opened

LARGEST = 10_000_000
"""Bytes of a report, at most."""
ENCODINGS = ((84, 1.0), (60, 0.8), (40, 0.6), (25, 0.4))
"""(JPEG quality, scale) of the pictures; the first that makes a report small enough is taken."""
MANY = 200
"""The most rows of a table."""
LEFT_BY_RUNS = ("metrics.json", "history.csv", "best.ckpt", "last.ckpt")
"""A training, or an evaluation, that has come to something has one of these files."""


def find_runs(given: str | Sequence[str]) -> list[RunFolder]:
    """The runs in a folder, or in several: each is a run or contains runs. UserError where one contains none."""
    found: list[RunFolder] = []
    for text in [given] if isinstance(given, str) else given:
        folder = Path(text).expanduser()
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}; run=... takes the folder of a run")
        inside = sorted(file.parent for file in folder.rglob("config.yaml"))
        if not inside:
            raise UserError(f"{folder} is no run folder (no config.yaml in it or below it); give the folder of a "
                            "training, an evaluation or a sweep")  # fmt: skip
        whole_run = folder in inside and not _holds_runs(folder)
        found += [RunFolder.at(each) for each in ([folder] if whole_run else inside) if not _holds_runs(each)]
    return found


def _holds_runs(folder: Path) -> bool:
    """Whether a folder with a config.yaml is that of a benchmark, whose runs are below it."""
    own = any((folder / name).is_file() for name in LEFT_BY_RUNS)
    return not own and any((file.parent / name).is_file() for file in folder.glob("*/**/config.yaml")
                           for name in LEFT_BY_RUNS)  # fmt: skip


def write_report(runs: Sequence[RunFolder], output: Path) -> int:
    """Write the report of one run, or of several, to `output`; its bytes. UserError where it cannot be written."""
    if len(runs) == 1:
        template, content = "run.html", _of_one(runs[0])
    else:
        template, content = "several.html", {"title": f"{len(runs)} runs compared", **several(runs)}
    text = _rendered(template, content)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole(output) as temporary:
            temporary.write_bytes(text)
    except OSError as error:
        raise UserError(f"cannot write {output} ({error.strerror or error}); choose another output") from error
    return len(text)


def _of_one(run: RunFolder) -> dict[str, Any]:
    """What the template of one run shows. A broken config is an error: without it nothing is known of the run."""
    config = run.config
    judged = part(lambda: Judged.of(run))
    detector = part(lambda: opened(run))
    words, changed = command(config) if run.is_training else ([], [])
    return {
        "title": run.name,
        "training": run.is_training,
        "metrics": run.measured,
        "changed": changed,
        "settings": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        "data": part(run.data_report),
        "curves": part(run.curves),
        "judged": judged,
        "gallery": _if(judged, lambda j: j.gallery()),
        "worst": _if(judged, lambda j: j.worst_pictures()),
        "attention": _both(detector, judged, attention),
        "latency": _both(detector, judged, latency),
        "detector": detector,
        "again": shell_line(words),
    }


def _if(judged: Part[Judged], read: Any) -> Part[Any]:
    content = judged.content
    return Part(missing=judged.missing) if content is None else part(lambda: read(content))


def _both(detector: Part[Any], judged: Part[Judged], read: Any) -> Part[Any]:
    if detector.content is None:
        return Part(missing=detector.missing)
    return _if(judged, lambda content: read(detector.content, content))


def _rendered(template: str, content: Mapping[str, Any]) -> bytes:
    for quality, scale in ENCODINGS:
        environment = Environment(
            loader=PackageLoader("detr_mini.pages"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        environment.filters |= {
            "picture": partial(picture_uri, quality=quality, scale=scale),
            "number": number,
            "text": lambda value: printable(str(value)),
        }
        environment.tests["match_ap"] = lambda key: str(key).startswith("AP/")
        made = time.strftime("%Y-%m-%d %H:%M")
        page = environment.get_template(template).render(
            **content,
            version=__version__,
            made=made,
            with_interval=with_interval,
            width=WIDTH,
            height=HEIGHT,
            many=MANY,
        )
        text = page.encode("utf-8", "backslashreplace")
        if len(text) <= LARGEST:
            return text
    raise UserError(f"the report would have {len(text):,} bytes, more than {LARGEST:,}; report on fewer runs")


def picture_uri(image: Image.Image, quality: int = 84, scale: float | int = 1.0) -> str:
    """A picture as a data URI of a JPEG."""
    if scale != 1:
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
