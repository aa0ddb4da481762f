"""Frames of a video file, a camera, a stream or a folder of images, one after another (PyAV, extra `video`)."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from detr_mini.errors import ConfigError, DataError, UserError, first_line, install
from detr_mini.images.load import load_image
from detr_mini.inference.sources import Source, find_pictures

SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv",
            ".3gp", ".ogv")  # fmt: skip
"""File names of videos."""
STREAMS = ("rtsp://", "rtsps://", "rtmp://", "udp://", "srt://")
TIMEOUT = 10.0
"""Seconds to wait for a stream."""
FASTEST = 1000.0
"""Frames a second; what states more gives its unit of time in place of a rate."""
SLOWEST = 0.01
"""Frames a second of a video that is written."""
TICKS = 90_000
"""Units of time in a second of a video that is written."""
USUAL_RATE = 25.0
"""Frames a second of a folder of images, and of a source that does not state its own."""
OF_VIDEOS = {"every": 1, "start": None, "end": None, "track": False}
"""Settings of `predict` for videos, with the values that change nothing."""


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    number: int
    """From 0, every frame of the source counting."""
    seconds: float
    pixels: UInt8[Tensor, "3 h w"]
    file_name: str | None = None
    """Of a folder of images: the image's path below the folder."""


@dataclass(frozen=True)
class Cut:
    """Which frames are wanted: every n-th, from `start` to `end` in seconds (None: all)."""

    every: int = 1
    start: float | int | None = None
    end: float | int | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"every is {self.every}; it must be at least 1")
        if (self.start or 0) < 0 or (self.end is not None and self.end <= (self.start or 0)):
            raise ConfigError(f"start is {self.start} and end is {self.end}; they are seconds, end after start")

    @classmethod
    def of(cls, config: Any) -> Cut:
        """From the settings of `predict`."""
        return cls(config.every, config.start, config.end)

    def wants(self, number: int, seconds: float | int) -> bool:
        """Whether this frame is detected in."""
        return number % self.every == 0 and seconds >= (self.start or 0)

    def is_over(self, seconds: float | int) -> bool:
        """Whether no later frame is wanted."""
        return self.end is not None and seconds >= self.end


def is_video(source: object, video: bool) -> bool:
    """Whether a source is a video, a camera's number or an address; `video`: a folder or pattern of frames is one."""
    if not isinstance(source, str):
        return False
    is_file = Path(source).suffix.lower() in SUFFIXES and not Path(source).expanduser().is_dir()
    return video or _is_camera(source) or "://" in source or is_file


def _is_camera(source: str) -> bool:
    """Whether a source is a camera's number, and not a file or folder that is called by a number."""
    return source.isdigit() and not Path(source).exists()


def refuse_misplaced(settings: Mapping[str, Any], source: object, is_a_video: bool) -> None:
    """ConfigError where `settings` of `predict` are for videos, and `source` is none."""
    if settings["video"] and isinstance(source, list):
        raise ConfigError("video=true takes one folder or pattern of frames, and source is a list; give one of them")
    given = [f"{key}={settings[key]}".lower() for key, unset in OF_VIDEOS.items() if settings[key] != unset]
    if given and not is_a_video:
        raise ConfigError(f"{given[0]} is for videos, and source is none; leave it out, or add video=true where "
                          "source is a folder or pattern of frames")  # fmt: skip


class VideoSource:
    """A video that is read from its beginning to its end, once. Close it after use."""

    def __init__(self, source: str, cut: Cut, written: Sequence[Path] = ()) -> None:
        """`written`: folders with results, whose pictures are no frames.

        UserError or DataError where there is no such video, camera or stream, or PyAV is missing.
        """
        self.name, self.cut = source, cut
        self.ended_early: str | None = None
        """Why the video ended before its end, once it was read."""
        self.is_live = _is_camera(source) or "://" in source
        self.container: Any = None
        self.images: Sequence[Source] = ()
        self.seconds: float | None = None
        if not self.is_live and not Path(source).expanduser().is_file():
            self.images = sorted(find_pictures(source, written), key=_natural)
            self.rate, self.seconds = USUAL_RATE, len(self.images) / USUAL_RATE
            return
        self.container = _opened(source)
        self.stream = next(iter(self.container.streams.video), None)
        if self.stream is None:
            self.container.close()
            raise DataError(f"{source} has no picture in it; give a video")
        self.stream.thread_type = "AUTO"
        stated = float(self.stream.average_rate or self.stream.guessed_rate or 0)
        self.rate = stated if 0 < stated < FASTEST else USUAL_RATE
        if not self.is_live:
            self.seconds = _duration(self.container, self.stream)

    def close(self) -> None:
        """Let go of the file or the camera."""
        if self.container is not None:
            self.container.close()

    @property
    def count(self) -> int | None:
        """About how many frames are wanted; None where nobody knows."""
        end = self.cut.end if self.seconds is None else min(self.seconds, self.cut.end or self.seconds)
        return None if end is None else max(1, round((end - (self.cut.start or 0)) * self.rate / self.cut.every))

    def frames(self) -> Iterator[Frame]:
        """The wanted frames. Where the source breaks off, `ended_early` says why."""
        if self.images:
            yield from self._of_images()
            return
        import av

        first, seconds, shown, number = None, 0.0, 0.0, -1
        try:
            for number, frame in enumerate(self._decoded(av.error.BlockingIOError)):
                at = number / self.rate if frame.time is None else float(frame.time)
                first = at if first is None else first
                seconds = at - first
                shown = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 1 / self.rate
                if self.cut.is_over(seconds):
                    return
                if self.cut.wants(number, seconds):
                    yield Frame(number, seconds, _pixels(frame))
        except (av.error.FFmpegError, OSError) as error:
            if number < 0:
                raise DataError(f"{self.name} cannot be decoded ({first_line(error)}); is it a whole video?") from error
            self.ended_early = f"{self.name} broke off after {seconds:.1f} s ({first_line(error)})"
            return
        if number < 0:
            raise DataError(f"{self.name} has no frame; is it a whole video?")
        end = seconds + shown
        if self.seconds is not None and end + max(1.0, 3 / self.rate) < self.seconds:
            self.ended_early = (f"{self.name} ends after {end:.1f} s, and its header says {self.seconds:.1f} s: "
                                "the file may be cut off")  # fmt: skip

    def _decoded(self, none_yet: type[Exception]) -> Iterator[Any]:
        """The frames as PyAV has them. A camera that has `none_yet` is asked again, for TIMEOUT seconds."""
        asked = time.monotonic()
        while True:
            try:
                for frame in self.container.decode(self.stream):
                    yield frame
                    asked = time.monotonic()
                return
            except none_yet:
                if not self.is_live or time.monotonic() - asked > TIMEOUT:
                    raise
                time.sleep(0.005)

    def _of_images(self) -> Iterator[Frame]:
        for number, image in enumerate(self.images):
            seconds = number / self.rate
            if self.cut.is_over(seconds):
                return
            if self.cut.wants(number, seconds):
                yield Frame(number, seconds, load_image(image.path), image.name)


def _natural(image: Source) -> list[str | int]:
    """For sorting: numbers in names by their value, so that frame2.png comes before frame10.png."""
    parts = re.split(r"(\d+)", image.name)
    return [int(part) if at % 2 else part for at, part in enumerate(parts)]


def _duration(container: Any, stream: Any) -> float | None:
    """Seconds of the pictures as the header says; those of the longest stream where it does not say so of each."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return float(container.duration) / 1e6 if container.duration else None


def video_library() -> Any:
    """PyAV. UserError with the line that installs it."""
    try:
        import av
    except ImportError:
        raise UserError(f"videos need the package av (PyAV); install it with: {install('video')}") from None
    # No log: its callback waits for Python's lock in a decoder's thread, and closing waits for that thread with the
    # lock held. With any level set, one early end of a clip in a few hundred hung.
    av.logging.set_level(None)
    return av


def _opened(source: str) -> Any:
    if "://" in source and not source.lower().startswith(STREAMS):
        raise UserError(f"{source} is an address that is not read from; give a file, a camera's number or a stream "
                        f"({', '.join(STREAMS[:2])}...): a video of a page is downloaded first")  # fmt: skip
    av = video_library()
    try:
        if _is_camera(source):
            return _camera(av, int(source))
        if "://" in source:
            options = {"rtsp_transport": "tcp"} if source.lower().startswith("rtsp") else {}
            return av.open(source, timeout=TIMEOUT, options=options)
        return av.open(str(Path(source).expanduser()))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        why = first_line(error)[:200]
        if _is_camera(source):
            raise UserError(f"there is no camera {source} that can be opened ({why}); the first camera is 0") from error
        if "://" in source:
            raise UserError(f"no stream can be read from {source} ({why}); check the address") from error
        raise DataError(f"{source} cannot be read as a video ({why}); the file may be cut off or damaged") from error


def _camera(av: Any, number: int) -> Any:
    if sys.platform == "darwin":
        return av.open(str(number), format="avfoundation", options={"framerate": "30"})
    if sys.platform == "win32":
        raise UserError("cameras by number work on Linux and macOS; on Windows give a stream's address")
    return av.open(f"/dev/video{number}", format="v4l2")


def _pixels(frame: Any) -> UInt8[Tensor, "3 h w"]:
    """A decoded frame, upright."""
    values = frame.to_ndarray(format="rgb24")
    quarter_turns = round(float(frame.rotation or 0) / 90) % 4
    return torch.from_numpy(np.ascontiguousarray(np.rot90(values, quarter_turns).transpose(2, 0, 1)))


class VideoWriter:
    """A video file (H.264 where PyAV has it) that can be played up to its last whole second at any time."""

    def __init__(self, path: Path, rate: float | int) -> None:
        self.path, self.rate = path, max(float(rate), SLOWEST)
        self._container: Any = None
        self._stream: Any = None
        self._last, self._count = -1, 0

    def write(self, picture: np.ndarray, seconds: float | int | None = None) -> None:
        """Append an RGB picture (h, w, 3). All of a video have the size of the first; others are resized.

        `seconds`: when it is shown; None: one after another, at the video's rate.
        """
        av = video_library()
        if self._container is None:
            self._begin(av, picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(self._stream.width, self._stream.height, "yuv420p")
        at = self._count / self.rate if seconds is None else seconds
        self._last, self._count = max(self._last + 1, round(at * TICKS)), self._count + 1
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))

    def _begin(self, av: Any, width: int, height: int) -> None:
        # in fragments, so that the file needs no last part to be readable
        options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
        self._container = av.open(str(self.path), "w", format="mp4", options=options)
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        rate = Fraction(self.rate).limit_denominator(1001)
        self._stream = self._container.add_stream(codec, rate=rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = max(2, width), max(2, height), "yuv420p"
        self._stream.gop_size = max(1, round(self.rate))
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        self._stream.codec_context.max_b_frames = 0  # with them, the first frame is not shown at 0

    def close(self) -> None:
        """Write what is left. OSError where the disk is full."""
        container, self._container = self._container, None
        if container is not None:
            try:
                container.mux(self._stream.encode())
            finally:
                container.close()
