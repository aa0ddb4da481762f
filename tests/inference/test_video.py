"""A video is read frame by frame; what was read and written stays readable, whatever happens."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from detector_parts import CATEGORIES
from detr_mini.boxes import box_iou, xywh_to_xyxy
from detr_mini.errors import ConfigError, DataError, UserError
from detr_mini.inference import video_folder
from detr_mini.inference.prediction_folder import Request
from detr_mini.inference.requests import USUAL_LIMIT, at_most, found_in_each, ignored
from detr_mini.inference.tracking import Tracker
from detr_mini.inference.video_folder import write_video
from detr_mini.inference.video_source import Cut, VideoSource, VideoWriter, is_video
from detr_mini.structures import Categories, Detections, OperatingPoint
from memory_parts import growth

av = pytest.importorskip("av")
RATE = 25.0


class ByColour:
    """Finds the bright squares of the clips below by their colour: a detector that is always right."""

    categories = CATEGORIES
    most: int | None = None
    operating_point = OperatingPoint(threshold=0.3)
    image: ClassVar[dict[str, Any]] = {"size": 64}

    def detect(self, images: Any, threshold: float | None = None, **_: Any) -> list[Detections]:
        return [self._of(pixels) for pixels in images]

    def _of(self, pixels: torch.Tensor) -> Detections:
        boxes = []
        for label in range(3):
            rows, columns = (pixels[label] > 150).nonzero(as_tuple=True)
            if len(rows):
                boxes.append([label, columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)
        scores = torch.full((len(table),), 0.4)
        return Detections(table[:, 1:], scores, table[:, 0].long(), CATEGORIES, image_size=tuple(pixels.shape[1:]))

    def least_score(self, threshold: float | None = None, caption: Any = None) -> float:
        return self.operating_point.threshold if threshold is None else threshold

    def categories_of(self, caption: Any) -> Categories:
        return self.categories


def frame_of(number: int, size: tuple[int, int] = (96, 128)) -> tuple[np.ndarray, list[list[float]]]:
    """A dark picture with a red, a green and a blue square that bounce up and down, and their boxes."""
    picture, boxes = np.full((*size, 3), 20, np.uint8), []
    for label in range(3):
        swing = abs((number * (label + 1) + 13 * label) % (2 * (size[0] - 20)) - (size[0] - 20))
        left = 6 + 40 * label
        picture[swing : swing + 20, left : left + 20, label] = 250
        boxes.append([left, swing, left + 20, swing + 20])
    return picture, boxes


def clip(path: Path, frames: int) -> Path:
    writer = VideoWriter(path, RATE)
    for number in range(frames):
        writer.write(frame_of(number)[0])
    writer.close()
    return path


def detect(source: Path | str, output: Path, cut: Cut | None = None, **request: Any) -> tuple[list[str], list[Any]]:
    settings = {"draw": False, **request}
    tracks = settings.pop("tracks", False)
    said = write_video(ByColour(), str(source), output, Request(**settings), cut or Cut(), tracks)
    return said, [json.loads(line) for line in (output / "frames.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 60)


def test_every_frame_has_a_line_with_what_was_found(short: Path, tmp_path: Path) -> None:
    said, lines = detect(short, tmp_path, draw=True)
    assert [line["frame"] for line in lines] == list(range(60))
    assert said[0].startswith("60 frames, 180 detections")
    for line in lines:
        assert line["seconds"] == pytest.approx(line["frame"] / RATE, abs=1e-3)
        found = np.array([[x, y, x + w, y + h] for x, y, w, h in (d["bbox"] for d in line["detections"])])
        assert np.abs(found - frame_of(line["frame"])[1]).max() <= 2
    with av.open(str(tmp_path / "drawn.mp4")) as drawn:
        assert sum(1 for _ in drawn.decode(video=0)) == 60
    assert json.loads((tmp_path / "images.json").read_text())["categories"] == CATEGORIES.records()


def test_drawn_frames_are_shown_when_they_were_taken(tmp_path: Path) -> None:
    times = [0.0, 0.2, 0.4, 0.43, 0.46, 1.5]
    writer = VideoWriter(tmp_path / "uneven.mp4", 5.0)
    for number, seconds in enumerate(times):
        writer.write(frame_of(number)[0], seconds)
    writer.close()
    with av.open(str(tmp_path / "uneven.mp4")) as written:
        found = [frame.time for frame in written.decode(video=0)]
    assert np.allclose(np.array(found) - found[0], times, atol=0.01)
    write_video(ByColour(), str(tmp_path / "uneven.mp4"), tmp_path / "out", Request(draw=True), Cut(), False)
    lines = [json.loads(line) for line in (tmp_path / "out" / "frames.jsonl").read_text().splitlines()]
    with av.open(str(tmp_path / "out" / "drawn.mp4")) as drawn:
        again = [frame.time for frame in drawn.decode(video=0)]
    assert np.allclose(again, [line["seconds"] for line in lines], atol=0.01)


@pytest.mark.parametrize("rate", [90_000.0, 0.0001])
def test_a_rate_that_is_none_is_not_taken_for_one(rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = VideoWriter(tmp_path / "slow.mp4", min(rate, 25.0))
    for number in range(3):
        writer.write(frame_of(number)[0], number / 25)
    writer.close()
    source = VideoSource(str(tmp_path / "slow.mp4"), Cut())
    assert 0 < source.rate < 1000 and len(list(source.frames())) == 3
    source.close()


def test_a_camera_that_has_no_picture_yet_is_asked_again(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = VideoSource(str(short), Cut())
    container, calls = source.container, []

    class Slow:
        def decode(self, stream: Any) -> Any:
            calls.append(1)
            if len(calls) < 3:
                raise av.error.BlockingIOError(35, "Resource temporarily unavailable")
            return container.decode(stream)

    source.container, source.is_live = Slow(), True
    assert len(list(source.frames())) == 60 and len(calls) == 3
    container.close()


def test_results_among_the_frames_are_no_frames_and_a_result_is_no_source(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3):
        Image.fromarray(frame_of(number)[0]).save(frames / f"{number}.png")
    (frames / "out" / "drawn").mkdir(parents=True)
    Image.fromarray(frame_of(9)[0]).save(frames / "out" / "drawn" / "9.png")
    write_video(ByColour(), str(frames), frames / "out", Request(draw=True), Cut(), False)
    assert len((frames / "out" / "frames.jsonl").read_text().splitlines()) == 3
    drawn = frames / "out" / "drawn.mp4"
    before = drawn.read_bytes()
    with pytest.raises(UserError, match="would be replaced"):
        write_video(ByColour(), str(drawn), frames / "out", Request(draw=True), Cut(), False)
    assert drawn.read_bytes() == before


@pytest.mark.parametrize(("most", "usual", "labels"), [(None, 100, 1000), (50, 50, 50), (300, 100, 300)])
def test_a_file_is_asked_for_no_more_than_it_gives(most: int | None, usual: int, labels: int) -> None:
    asked: list[int] = []

    class Limited(ByColour):
        def detect(self, images: Any, limit: int | None = None, **_: Any) -> list[Detections]:
            asked.append(limit or 0)
            return super().detect(images)

    detector = Limited()
    detector.most = most
    assert at_most(detector, USUAL_LIMIT) == usual
    assert len(list(found_in_each(detector, [0], lambda _: torch.zeros(3, 8, 8), ignored, 0.5))) == 1
    assert asked == [labels]


def test_a_line_says_which_phrase_a_box_answers(short: Path, tmp_path: Path) -> None:
    class Asked(ByColour):
        def _of(self, pixels: torch.Tensor) -> Detections:
            found = super()._of(pixels)
            return replace(found, phrases=tuple(f"the {name}" for name in found.names))

    write_video(Asked(), str(short), tmp_path, Request(draw=False), Cut(every=30), False)
    lines = [json.loads(line) for line in (tmp_path / "frames.jsonl").read_text().splitlines()]
    assert all(d["phrase"] == f"the {d['name']}" for line in lines for d in line["detections"])


def test_every_start_and_end_choose_frames(short: Path, tmp_path: Path) -> None:
    _, lines = detect(short, tmp_path, Cut(every=5, start=0.5, end=1.5))
    assert [line["frame"] for line in lines] == [15, 20, 25, 30, 35]


def test_a_folder_of_frames_is_a_video_where_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(7):
        Image.fromarray(frame_of(number)[0]).save(tmp_path / "frames" / f"{number:03}.png")
    assert is_video(str(tmp_path / "frames"), True) and not is_video(str(tmp_path / "frames"), False)
    _, lines = detect(tmp_path / "frames", tmp_path / "out")
    assert [len(line["detections"]) for line in lines] == [3] * 7


def test_a_file_or_folder_with_the_name_of_a_camera_or_a_video_is_what_it_is(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("2024", "frames.mp4"):
        assert is_video(name, False)
        (tmp_path / name).mkdir()
        assert is_video(name, True) and not is_video(name, False)
        for number in range(3):
            Image.fromarray(frame_of(number)[0]).save(tmp_path / name / f"{number}.png")
        assert len(detect(name, tmp_path / "out")[1]) == 3
    shutil.copy(short, "97")
    assert len(detect("97", tmp_path / "out")[1]) == 60


def test_frames_of_a_folder_follow_the_numbers_in_their_names(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(1, 12):
        Image.fromarray(frame_of(number)[0]).save(tmp_path / "frames" / f"frame{number}.png")
    _, lines = detect(tmp_path / "frames", tmp_path / "out")
    assert [line["file_name"] for line in lines] == [f"frame{number}.png" for number in range(1, 12)]
    _, lines = detect(f"{tmp_path}/frames/frame*.png", tmp_path / "out", Cut(every=5))
    assert [line["file_name"] for line in lines] == ["frame1.png", "frame6.png", "frame11.png"]


def test_a_run_that_fails_before_its_first_frame_leaves_the_earlier_results(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect(short, tmp_path / "out", draw=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def refuse(*_: Any, **__: Any) -> None:
        raise UserError("no captions")

    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png"):
        detect(tmp_path / "frames", tmp_path / "out")
    monkeypatch.setattr(ByColour, "detect", refuse)
    with pytest.raises(UserError, match="no captions"):
        detect(short, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("cut", [Cut(start=100), Cut(every=1000, start=1.0)])
def test_a_cut_without_frames_is_an_error_that_leaves_the_earlier_results(
    cut: Cut, short: Path, tmp_path: Path
) -> None:
    detect(short, tmp_path / "out", draw=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "frames").mkdir()
    for number in range(3):
        Image.fromarray(frame_of(number)[0]).save(tmp_path / "frames" / f"{number}.png")
    with pytest.raises(DataError, match=rf"frames has no frame for every={cut.every}, start={cut.start}, .* 0\.1 s"):
        detect(tmp_path / "frames", tmp_path / "out", cut)
    with pytest.raises(DataError, match=r"clip\.mp4 .*Nothing in .*out was changed"):
        detect(short, tmp_path / "out", cut)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(DataError, match="has no frame"):
        detect(tmp_path / "frames", tmp_path / "new", cut)
    assert not (tmp_path / "new").exists()


def test_sound_that_goes_on_after_the_last_picture_is_no_sign_of_a_cut(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream, sound = container.add_stream("mpeg4", rate=25), container.add_stream("pcm_s16le", rate=8000)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(25):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_of(number)[0], format="rgb24")))
        container.mux(stream.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * 6), np.int16), format="s16", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    said, lines = detect(tmp_path / "a.mov", tmp_path / "out")
    assert len(lines) == 25 and len(said) == 1, said
    video = VideoSource(str(tmp_path / "a.mov"), Cut())
    assert video.seconds == pytest.approx(1.0) and video.count == 25
    assert float(video.container.duration) / 1e6 > 5
    video.close()


def test_the_last_picture_counts_for_as_long_as_it_is_shown(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        packets = [
            packet
            for number in range(25)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame_of(number)[0], format="rgb24"))
        ]
        packets += stream.encode()
        packets[-1].duration = 20 * 25  # of 1 / 25 s
        container.mux(packets)
    video = VideoSource(str(tmp_path / "a.mov"), Cut())
    assert video.seconds is not None and video.seconds > 15
    video.close()
    said, lines = detect(tmp_path / "a.mov", tmp_path / "out")
    assert len(lines) == 25 and len(said) == 1, said


def test_of_a_truncated_video_what_was_read_is_kept(short: Path, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "whole.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(200):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_of(number)[0], format="rgb24")))
        container.mux(stream.encode())
    content = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(content[: len(content) // 2])
    said, lines = detect(tmp_path / "half.mkv", tmp_path / "out")
    assert 20 < len(lines) < 180
    assert "what was read is kept" in said[-1] and "half.mkv" in said[-1]


def test_what_cannot_be_read_is_one_sentence(short: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(DataError, match=r"bad\.mp4 cannot be read as a video"):
        VideoSource(str(tmp_path / "bad.mp4"), Cut())
    with pytest.raises(UserError, match="there is no camera 97"):
        VideoSource("97", Cut())
    with pytest.raises(UserError, match="a video of a page is downloaded first"):
        VideoSource("https://example.org/watch?v=1", Cut())
    with pytest.raises(UserError, match="no stream can be read from rtsp://127"):
        VideoSource("rtsp://127.0.0.1:9/none", Cut())
    with pytest.raises(DataError, match="check the path"):
        VideoSource(str(tmp_path / "none.mp4"), Cut())
    for wrong in ({"every": 0}, {"start": -1.0}, {"start": 3.0, "end": 2.0}):
        with pytest.raises(ConfigError, match=r"every is|start is"):
            Cut(**wrong)


def test_a_full_disk_leaves_what_was_written_readable(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = video_folder._Run._one, 0

    def until_full(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count > 30:
            raise OSError(28, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(video_folder._Run, "_one", until_full)
    with pytest.raises(UserError, match=r"No space left on device.*the 30 frames before stay readable"):
        detect(short, tmp_path, draw=True)
    assert len((tmp_path / "frames.jsonl").read_text().splitlines()) == 30
    with av.open(str(tmp_path / "drawn.mp4")) as drawn:
        assert sum(1 for _ in drawn.decode(video=0)) >= 25


def test_a_video_that_was_not_closed_can_be_played(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", RATE)
    for number in range(150):
        writer.write(frame_of(number)[0])
    content = (tmp_path / "a.mp4").read_bytes()
    writer.close()
    (tmp_path / "killed.mp4").write_bytes(content)
    with av.open(str(tmp_path / "killed.mp4")) as drawn:
        assert sum(1 for _ in drawn.decode(video=0)) >= 50


def test_objects_keep_their_numbers(tmp_path: Path) -> None:
    motmetrics = pytest.importorskip("motmetrics")
    said, lines = detect(clip(tmp_path / "long.mp4", 200), tmp_path / "out", tracks=True)
    assert "detections with a score of at least 0.3, or 0.15 where they continue a track" in said[0]
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for line in lines:
        truth = torch.tensor(frame_of(line["frame"])[1], dtype=torch.float32)
        numbered = [d for d in line["detections"] if d["track"] is not None]
        boxes = xywh_to_xyxy(torch.tensor([d["bbox"] for d in numbered], dtype=torch.float32).reshape(-1, 4))
        iou = box_iou(truth, boxes).double().numpy()
        distances = np.where(iou >= 0.5, 1 - iou, np.nan)  # the library's own function fails with NumPy 2
        accumulator.update([0, 1, 2], [d["track"] for d in numbered], distances)
    summary = motmetrics.metrics.create().compute(accumulator, metrics=["idf1", "num_switches"])
    assert float(summary["idf1"].iloc[0]) >= 0.95
    assert int(summary["num_switches"].iloc[0]) == 0


def test_scores_that_the_librarys_own_bars_would_drop_are_followed() -> None:
    tracker = Tracker(threshold=0.3, rate=RATE)
    for number in range(5):
        boxes = torch.tensor([[10.0 + number, 10, 30 + number, 30], [60.0, 60, 80, 80]])
        found = Detections(boxes, torch.tensor([0.35, 0.2]), torch.tensor([0, 1]), CATEGORIES)
        kept, numbers = tracker.follow(found)
        assert kept.scores.tolist() == pytest.approx([0.35]), "a faint detection begins no track"
        assert (numbers == [None]) is (number == 0)


@pytest.mark.slow
def test_memory_stays_flat_over_thousands_of_frames(tmp_path: Path) -> None:
    grown = growth()
    detect(clip(tmp_path / "a.mp4", 500), tmp_path / "out", draw=True, tracks=True)
    of_some = grown()
    detect(clip(tmp_path / "b.mp4", 3000), tmp_path / "out", draw=True, tracks=True)
    assert grown() - of_some < 50
