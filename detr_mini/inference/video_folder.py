"""What `detr-mini predict` writes of a video: one JSON line a frame and the video with its boxes drawn."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from detr_mini.drawing.boxes import draw_detections
from detr_mini.errors import DataError, UserError
from detr_mini.inference.detections import to_coco_records
from detr_mini.inference.prediction_folder import IMAGES, OURS, WRITER, Request
from detr_mini.inference.requests import DetectorLike, in_batches
from detr_mini.inference.tracking import Tracker
from detr_mini.inference.video_source import Cut, Frame, VideoSource, VideoWriter, video_library
from detr_mini.progress import track
from detr_mini.structures import Detections

LINES, DRAWN = "frames.jsonl", "drawn.mp4"


def write_video(
    detector: DetectorLike, source: str, output: Path, request: Request, cut: Cut, with_tracks: bool
) -> list[str]:
    """Detect in the frames of `source` and write `output`, in the place of an earlier run's results; what to print.

    frames.jsonl has a line a frame (frame, seconds, detections; file_name, where frames are files), drawn.mp4 the boxes
    (`request.draw`), images.json the categories. Frames are read, written and forgotten one after another. Where the
    source or the disk gives out, what was written stays readable. An earlier run's results go once the first frames
    were detected in. `with_tracks`: every object keeps a number (`track`) from frame to frame.
    """
    least = detector.least_score(request.threshold, request.caption)
    if request.draw:
        video_library()
    if Path(source).expanduser().resolve() in {(output / name).resolve() for name in OURS}:
        raise UserError(f"{source} lies in the output {output} and would be replaced; choose another output")
    video = VideoSource(source, cut, [output / name for name in IMAGES])
    try:
        rate = video.rate / cut.every
        tracker = Tracker(least, rate) if with_tracks else None
        run = _Run(detector, request, least, tracker)
        batches = run.detected(video)
        first = list(islice(batches, 1))  # a source or a request that cannot be used fails here
        if not first:
            wanted = ", ".join(f"{key}={value}" for key, value in asdict(cut).items() if value is not None)
            length = "" if video.seconds is None else f", and it takes {video.seconds:.1f} s"
            why = video.ended_early or f"{source} has no frame for {wanted}{length}"
            raise DataError(f"{why}; choose another start, end or every. Nothing in {output} was changed")
        try:
            _clear(output)
            _describe(output, detector, request, source, video)
            with open(output / LINES, "w", encoding="utf-8") as lines:
                writer = VideoWriter(output / DRAWN, rate) if request.draw else None
                run.write(chain(first, batches), video.is_live, lines, writer)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"cannot write to {output} ({error.strerror or error}); the {run.frames} frames before "
                            "stay readable there") from error  # fmt: skip
    finally:
        video.close()
    return [*run.summary(), *([f"{video.ended_early}; what was read is kept"] if video.ended_early else [])]


class _Run:
    def __init__(self, detector: DetectorLike, request: Request, least: float | int, tracker: Tracker | None) -> None:
        self.detector, self.request, self.least, self.tracker = detector, request, least, tracker
        self.frames = 0
        self.begun: float | None = None
        """Seconds of the first frame that is drawn."""
        self.per_category: Counter[str] = Counter()
        self.tracks: set[int] = set()

    def detected(self, video: VideoSource) -> Iterator[list[tuple[Frame, Detections]]]:
        """The frames with what is found in them, some at a time."""
        at_once = 1 if video.is_live else self.request.batch_size
        shown = track(video.frames(), "detecting", total=video.count)
        for batch in in_batches(shown, at_once):
            yield list(zip(batch, self._found(batch), strict=True))

    def write(
        self, batches: Iterable[list[tuple[Frame, Detections]]], is_live: bool, lines: Any, writer: VideoWriter | None
    ) -> None:
        """All frames, until the video ends or Ctrl-C stops a live one."""
        try:
            for batch in batches:
                for frame, found in batch:
                    kept: Detections = found
                    numbers: list[int | None] = [None] * len(found)
                    if self.tracker is not None:
                        kept, numbers = self.tracker.follow(found)
                    self._one(frame, kept, numbers, lines, writer)
            if writer is not None:
                writer.close()
        except KeyboardInterrupt:
            if not is_live:
                raise
        finally:
            if writer is not None:
                with suppress(OSError):  # the disk may be full; another error is on its way then
                    writer.close()

    def _found(self, batch: list[Frame]) -> list[Detections]:
        request = self.request
        least = self.least if self.tracker is None else self.tracker.least
        found: list[Detections] = self.detector.detect(
            [frame.pixels for frame in batch], caption=request.caption, threshold=least, limit=request.most,
            batch_size=len(batch), tiles=request.tiles, overlap=request.overlap,
        )  # fmt: skip
        return found

    def _one(
        self, frame: Frame, found: Detections, numbers: list[int | None], lines: Any, writer: VideoWriter | None
    ) -> None:
        records = [
            {"name": name, **{key: record[key] for key in ("score", "category_id", "bbox")}}
            | ({} if phrase is None else {"phrase": phrase})
            | ({} if self.tracker is None else {"track": number})
            for name, phrase, record, number in zip(
                found.names, found.phrases or [None] * len(found), to_coco_records(found, 0), numbers, strict=True
            )
        ]
        line: dict[str, Any] = {"frame": frame.number, "seconds": round(frame.seconds, 4)}
        if frame.file_name is not None:
            line["file_name"] = frame.file_name
        line["detections"] = records
        lines.write(json.dumps(line) + "\n")
        lines.flush()
        if writer is not None:
            titles = tuple(name if number is None else f"{number} {name}"
                           for name, number in zip(found.phrases or found.names, numbers, strict=True))  # fmt: skip
            self.begun = frame.seconds if self.begun is None else self.begun
            picture = np.asarray(draw_detections(frame.pixels, replace(found, phrases=titles)))
            writer.write(picture, frame.seconds - self.begun)
        self.frames += 1
        self.per_category.update(found.names)
        self.tracks.update(number for number in numbers if number is not None)

    def summary(self) -> Iterator[str]:
        """What was found, line by line."""
        kinds = ", ".join(f"{count} {name}" for name, count in self.per_category.most_common(8))
        total = sum(self.per_category.values())
        found = f"{self.frames} frames, {total} detections with a score of at least {self.least:g}"
        if self.tracker is not None:
            found += f", or {self.tracker.least:g} where they continue a track"
        yield f"{found}: {kinds}" if total else found
        if self.tracker is not None:
            yield f"{len(self.tracks)} objects were followed"


def _clear(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name in OURS:
        path = output / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _describe(output: Path, detector: DetectorLike, request: Request, source: str, video: VideoSource) -> None:
    categories = detector.categories_of(request.caption).records()
    index = {"written_by": WRITER, "video": source, "frames_per_second": video.rate, "categories": categories}
    (output / "images.json").write_text(json.dumps(index), encoding="utf-8")
