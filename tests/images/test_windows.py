"""A window of a large image holds the same pixels as the whole image, whatever the file's layout."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detr_mini.errors import DataError
from detr_mini.images import header, tiff_segments, windows
from detr_mini.images.load import load_image, value_range
from detr_mini.images.windows import TiffWindows, open_windows, reduced


def picture(height: int = 150, width: int = 230, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    values = np.random.default_rng(height).integers(0, 200, (height, width, channels)).astype(dtype)
    values[..., 0] += np.arange(width, dtype=dtype) // 5
    return values[..., 0] if channels == 1 else values


def assert_windows_equal_the_whole(path: Path) -> None:
    whole = load_image(path)
    with open_windows(path) as image:
        assert isinstance(image, TiffWindows)
        assert image.size == tuple(whole.shape[1:])
        for top, left, height, width in [(0, 0, *image.size), (10, 20, 60, 50), (70, 3, 40, 61)]:
            window = image.window(top, left, height, width)
            assert torch.equal(window, whole[:, top : top + height, left : left + width])


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P", "1"])
def test_strips_of_every_kind(tmp_path: Path, compression: str | None, mode: str) -> None:
    if compression == "jpeg" and mode not in ("RGB", "L"):
        pytest.skip("no such file")
    image = Image.fromarray(picture()).convert(mode)
    image.save(tmp_path / "a.tif", compression=compression, tiffinfo={278: 32})
    assert_windows_equal_the_whole(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_that_is_stored_turned_or_mirrored_is_read_upright(tmp_path: Path, orientation: int) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.tif", compression="tiff_lzw", tiffinfo={278: 16, 274: orientation})
    assert_windows_equal_the_whole(tmp_path / "a.tif")


def test_grey_of_sixteen_bits_is_stretched_by_the_whole_file(tmp_path: Path) -> None:
    values = picture(channels=1, dtype=np.uint16) * np.uint16(17)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={278: 20})
    assert_windows_equal_the_whole(tmp_path / "a.tif")


@settings(deadline=None, max_examples=30)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    tile=st.sampled_from([16, 32, 48]),
    big=st.booleans(),
    compression=st.sampled_from([None, "zlib"]),
    data=st.data(),
)
def test_any_window_of_any_tiled_file(
    size: tuple[int, int], tile: int, big: bool, compression: str | None, data: st.DataObject
) -> None:
    values = picture(*size)
    top, left = (data.draw(st.integers(0, side - 1)) for side in size)
    height, width = (data.draw(st.integers(1, side - at)) for side, at in zip(size, (top, left), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        tifffile.imwrite(f"{folder}/a.tif", values, tile=(tile, tile), bigtiff=big, compression=compression,
                         photometric="rgb", predictor=compression is not None)  # fmt: skip
        with open_windows(f"{folder}/a.tif") as image:
            window = image.window(top, left, height, width)
    assert torch.equal(window, torch.from_numpy(values[top : top + height, left : left + width]).permute(2, 0, 1))


def test_one_uncompressed_strip_is_read_by_parts(tmp_path: Path) -> None:
    values = picture(700, 90)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", rowsperstrip=700)
    assert_windows_equal_the_whole(tmp_path / "a.tif")
    with open_windows(tmp_path / "a.tif") as image:
        assert isinstance(image, TiffWindows)
        assert image._segments.layout.segment[0] < 100


def test_colours_of_sixteen_bits_are_stretched_by_the_whole_file(tmp_path: Path) -> None:
    values = picture(dtype=np.uint16) * np.uint16(40)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", tile=(64, 64))
    assert_windows_equal_the_whole(tmp_path / "a.tif")


@pytest.mark.parametrize("empty", [np.s_[:64, :64], np.s_[64:128, 128:192], np.s_[:, :]])
def test_tiles_without_a_single_number_are_black_and_leave_the_range_to_the_others(
    tmp_path: Path, empty: tuple[slice, slice]
) -> None:
    values = picture(channels=1, dtype=np.float32)
    values[empty] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", values, tile=(64, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert_windows_equal_the_whole(tmp_path / "a.tif")
    with open_windows(tmp_path / "a.tif") as image:
        pixels = image.window(0, 0, *image.size)[0]
    assert not pixels[empty].any()
    assert int(pixels.max()) == (0 if np.isnan(values).all() else 255)


def test_the_range_of_a_file_is_read_once_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def counted(parts: Iterable[np.ndarray]) -> tuple[float, float]:
        read.append(1)
        return value_range(parts)

    monkeypatch.setattr(windows, "value_range", counted)
    values = picture(channels=1, dtype=np.uint16) * np.uint16(17)
    for factor in (1, 2):
        tifffile.imwrite(tmp_path / "a.tif", values // factor + factor, tile=(64, 64))
        os.utime(tmp_path / "a.tif", (factor, factor))
        for _ in range(3):
            assert_windows_equal_the_whole(tmp_path / "a.tif")
        assert len(read) == factor
    monkeypatch.setattr(windows, "RANGES", 1)
    for name in "bcb":
        tifffile.imwrite(tmp_path / f"{name}.tif", values, tile=(64, 64))
        assert_windows_equal_the_whole(tmp_path / f"{name}.tif")
        assert len(windows._ranges) == 1


def test_a_picture_in_a_smaller_size_is_near_the_whole_resized(tmp_path: Path) -> None:
    smooth = np.array(Image.fromarray(picture(12, 15)).resize((1500, 1200), Image.Resampling.BICUBIC))
    tifffile.imwrite(tmp_path / "a.tif", smooth, photometric="rgb", tile=(256, 256))
    with open_windows(tmp_path / "a.tif") as image:
        small = reduced(image, 300)
    height, width = small.shape[1:]
    assert 300 <= width < 600
    wanted = Image.fromarray(smooth).resize((width, height), Image.Resampling.BOX)
    assert np.abs(small.permute(1, 2, 0).numpy().astype(int) - np.asarray(wanted).astype(int)).mean() < 3


def test_what_cannot_be_read_by_windows_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.moveaxis(picture(), 2, 0), photometric="rgb", planarconfig="separate", compression="zlib")
    with pytest.raises(DataError, match="stores each colour by itself"), open_windows(path):
        pass
    tifffile.imwrite(path, picture(), photometric="rgb", tile=(64, 64), compression="zlib")
    path.write_bytes(path.read_bytes()[:-30_000])
    with (
        pytest.raises(DataError, match=r"strip or tile \d+ of 12|not a TIFF that can be read"),
        open_windows(path) as image,
    ):
        image.window(0, 0, *image.size)
    path.write_bytes(b"II*\0" + b"\xff" * 40)
    with pytest.raises(DataError, match="not a TIFF that can be read"), open_windows(path):
        pass
    tifffile.imwrite(path, picture(), photometric="rgb", rowsperstrip=150, compression="zlib")
    monkeypatch.setattr(tiff_segments, "LARGEST", 10_000)
    with pytest.raises(DataError, match=r"230 x 150 pixels in one piece.*save it in tiles"), open_windows(path):
        pass
    monkeypatch.setattr(header, "MAX_PIXELS", 10_000)
    Image.fromarray(picture()).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="only a TIFF is read by windows"), open_windows(tmp_path / "a.png"):
        pass
    with pytest.raises(DataError, match="there is no image file"), open_windows(tmp_path / "b.tif"):
        pass


def test_a_tiff_above_the_limit_of_pixels_is_read_by_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb", tile=(64, 64))
    monkeypatch.setattr(header, "MAX_PIXELS", 10_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with open_windows(tmp_path / "a.tif") as image:
        assert image.window(100, 100, 50, 130).shape == (3, 50, 130)
