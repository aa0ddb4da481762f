from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps
from torchvision.transforms.v2 import functional as F

from detr_mini.errors import DataError
from detr_mini.images.encoded import Encoded
from detr_mini.images.header import image_size
from detr_mini.images.load import load_image, load_reduced, stretch
from detr_mini.images.model_input import target_size, to_model_input

RED = np.zeros((4, 6, 3), np.uint8)
RED[..., 0] = 255
RED[0, 0] = 0, 0, 255


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def pixels(path: Path) -> np.ndarray:
    return load_image(path).permute(1, 2, 0).numpy()


def test_rgb_is_read_unchanged(tmp_path: Path) -> None:
    np.testing.assert_array_equal(pixels(saved(tmp_path / "a.png", Image.fromarray(RED))), RED)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = saved(tmp_path / "a.png", image, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    np.testing.assert_array_equal(pixels(path), upright)
    assert image_size(path) == (upright.shape[:2], orientation >= 5)


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.jpg"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0"])
def test_broken_exif_is_ignored(tmp_path: Path, name: str, exif: bytes) -> None:
    path = saved(tmp_path / name, Image.new("RGB", (6, 4), "red"), exif=exif, dpi=(72, 72))
    with Image.open(path) as image, pytest.raises((SyntaxError, struct.error)):
        image.getexif().get(ExifTags.Base.Orientation)
    assert image_size(path) == ((4, 6), False)
    assert load_image(path).shape == (3, 4, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_colour_is_turned_like_any_other(tmp_path: Path, orientation: int) -> None:
    from detr_mini.images.load import turned_upright

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.info["exif"] = exif.tobytes()
    turned = turned_upright(torch.from_numpy(np.array(image)).permute(2, 0, 1), orientation)
    expected = np.asarray(ImageOps.exif_transpose(saved_and_opened(tmp_path / "a.png", image, exif)))
    np.testing.assert_array_equal(turned.permute(1, 2, 0).numpy(), expected)


def saved_and_opened(path: Path, image: Image.Image, exif: Image.Exif) -> Image.Image:
    image.save(path, exif=exif)
    return Image.open(path)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    path = saved(tmp_path / "a.png", Image.fromarray(grey))
    np.testing.assert_array_equal(pixels(path), np.repeat(grey[..., None], 3, 2))


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(RED).convert("1"))
    assert set(np.unique(pixels(path))) <= {0, 255}


def test_a_palette_image_becomes_rgb(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(RED).quantize(2))
    np.testing.assert_array_equal(pixels(path), RED)


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    rgba = np.dstack([RED, np.full((4, 6), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    expected = RED.copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(pixels(saved(tmp_path / "a.png", Image.fromarray(rgba))), expected)


def test_a_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    palette = Image.fromarray(RED).quantize(2)
    blue = int(np.asarray(palette)[0, 0])
    expected = RED.copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(pixels(saved(tmp_path / "a.png", palette, transparency=blue)), expected)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    flat = np.zeros((16, 16, 3), np.uint8)
    flat[..., 0] = 255
    path = saved(tmp_path / "a.jpg", Image.fromarray(flat).convert("CMYK"), quality=100)
    assert Image.open(path).mode == "CMYK"
    assert np.abs(pixels(path).astype(int) - flat).max() <= 4


def test_sixteen_bits_are_stretched_over_the_files_range(tmp_path: Path) -> None:
    values = np.linspace(1000, 4000, 24).astype(np.uint16).reshape(4, 6)
    loaded = pixels(saved(tmp_path / "a.png", Image.fromarray(values)))
    assert (loaded[0, 0] == 0).all()
    assert (loaded[-1, -1] == 255).all()
    assert (np.diff(loaded[..., 0].ravel().astype(int)) > 0).all()


def test_sixteen_bit_tiff_is_read_like_png(tmp_path: Path) -> None:
    values = np.linspace(1000, 4000, 24).astype(np.uint16).reshape(4, 6)
    png = pixels(saved(tmp_path / "a.png", Image.fromarray(values)))
    np.testing.assert_array_equal(png, pixels(saved(tmp_path / "a.tiff", Image.fromarray(values))))


def test_sixteen_bit_colour_keeps_its_lower_bytes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1000, 4000, (3, 4, 6)).astype(np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(png16(values))
    loaded = load_image(path).numpy()
    expected = (values.astype(float) - values.min()) / np.ptp(values.astype(float)) * 255
    assert np.abs(loaded - expected).max() <= 0.51


def png16(values: np.ndarray) -> bytes:
    """A PNG file of 16 bit RGB, which Pillow cannot write."""
    import struct
    import zlib

    height, width = values.shape[1:]
    rows = values.transpose(1, 2, 0).astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no image file .*gone\.png"):
        load_image(tmp_path / "gone.png")


def test_a_file_that_is_not_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    for read in (load_image, image_size):
        with pytest.raises(DataError, match=r"a\.png is not an image that can be read"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = saved(tmp_path / name, Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{name} cannot be decoded .* cut off") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [10_000, 30_000])
def test_a_file_that_claims_too_many_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path = saved(tmp_path / "a.png", Image.new("L", (200, 200)))
    monkeypatch.setattr("detr_mini.images.header.MAX_PIXELS", 30_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # 10,000: Pillow's own guard comes first
    with pytest.raises(DataError, match=r"over the limit of 30,000 pixels"):
        load_image(path)


sides = st.integers(1, 2000)


@given(sides, sides, st.integers(1, 1500))
def test_the_longest_side_becomes_size_and_the_aspect_ratio_stays(height: int, width: int, size: int) -> None:
    new = target_size((height, width), size)
    assert max(new) == size
    exact = min(height, width) * size / max(height, width)
    assert min(new) == max(1, round(exact))
    assert (new[0] >= new[1]) == (height >= width) or new[0] == new[1]


@given(sides, sides)
def test_the_shorter_side_follows_detrs_rule(height: int, width: int) -> None:
    new = target_size((height, width), size=1333, shorter_side=800)
    short, long = min(height, width), max(height, width)
    assert min(new) == min(800, max(1, round(1333 * short / long)))
    assert max(new) == min(new) * long // short or (height, width) == new  # whole numbers: 800 * 1.13 is not 904


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    image = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8)
    out = to_model_input(image, 12, None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    torch.testing.assert_close(out, image.float() / 255)


def test_model_input_is_normalised() -> None:
    image = torch.full((3, 10, 20), 255, dtype=torch.uint8)
    out = to_model_input(image, 10, None, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    assert out.shape == (3, 5, 10)
    torch.testing.assert_close(out[:, 0, 0], torch.tensor([1.0, 3.0, 0.5]))


WRITTEN = [
    ("png", "RGB", {}), ("png", "RGBA", {}), ("png", "L", {}), ("png", "LA", {}), ("png", "1", {}), ("png", "P", {}),
    ("png", "I;16", {}), ("jpg", "RGB", {"quality": 95}), ("jpg", "L", {"quality": 95}),
    ("jpg", "CMYK", {"quality": 95}), ("jpg", "RGB", {"quality": 95, "progressive": True}),
    ("webp", "RGB", {"lossless": True}), ("webp", "RGBA", {"lossless": True}), ("webp", "RGB", {"quality": 95}),
    ("bmp", "RGB", {}), ("bmp", "L", {}), ("bmp", "P", {}), ("gif", "P", {}), ("gif", "L", {}),
    ("tiff", "RGB", {}), ("tiff", "RGB", {"compression": "tiff_lzw"}), ("tiff", "L", {}), ("tiff", "I;16", {}),
    ("tiff", "F", {}), ("tiff", "CMYK", {}), ("tiff", "RGBA", {}), ("ppm", "RGB", {}), ("pgm", "L", {}),
    ("pbm", "1", {}), ("tga", "RGB", {}), ("tga", "RGBA", {}), ("pcx", "RGB", {}), ("sgi", "RGB", {}),
    ("ico", "RGB", {"sizes": [(48, 32)]}), ("dib", "RGB", {}), ("jp2", "RGB", {"irreversible": False}),
    ("avif", "RGB", {"quality": 95}), ("mpo", "RGB", {}),
]  # fmt: skip


@pytest.mark.parametrize(("suffix", "mode", "how"), WRITTEN, ids=[f"{s}-{m}-{len(h)}" for s, m, h in WRITTEN])
def test_every_supported_format_gives_the_same_image(
    tmp_path: Path, suffix: str, mode: str, how: dict[str, Any]
) -> None:
    """A ramp from dark left to bright right, over a bright upper and a dark lower half."""
    Image.init()
    if f".{suffix}" not in Image.EXTENSION or Image.EXTENSION[f".{suffix}"] not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {suffix}")
    ramp = np.linspace(0, 200, 48)[None] + np.where(np.arange(32) < 16, 55, 0)[:, None]
    grey = Image.fromarray(ramp.astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray((ramp * 12 + 1000).astype(np.uint16))
    elif mode == "F":
        image = Image.fromarray((ramp / 255).astype(np.float32))
    elif mode == "P":
        image = grey.convert("RGB").quantize(256)
    else:
        image = (grey.convert("RGB") if mode in ("CMYK", "RGBA") else grey).convert(mode)
    path = tmp_path / f"a.{suffix}"
    try:
        image.save(path, **how)
    except (OSError, KeyError) as error:  # an encoder that was left out when Pillow was built
        pytest.skip(f"this Pillow does not write {suffix}: {error}")
    assert image_size(path) == ((32, 48), False)
    loaded = load_image(path)
    assert loaded.shape == (3, 32, 48)
    assert loaded.dtype == torch.uint8
    assert (loaded.float() - loaded.float().mean(0)).abs().max() < 6  # grey it is
    shown = loaded.float().mean(0).numpy()
    if mode == "1":
        assert shown[:, 40:].mean() > shown[:, :8].mean() + 100
    else:
        assert np.abs(shown - ramp).max() < (12 if mode == "CMYK" else 8)


def soft(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture without fine detail."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def stored(image: Image.Image, kind: str = "JPEG", **how: Any) -> Encoded:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return Encoded(lambda: f"a.{kind}", stream.getvalue)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 200), st.integers(1, 8))
def test_a_jpeg_is_never_reduced_below_what_is_needed(width: int, height: int, most: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = stored(soft(width, height), exif=exif)
    whole = load_image(file)
    reduced, size = load_reduced(file, most)
    assert tuple(size) == tuple(whole.shape[1:])
    assert any(tuple(reduced.shape[1:]) == (-(-size[0] // f), -(-size[1] // f)) for f in (1, 2, 4, 8))
    if max(size) < 2 * most:
        assert torch.equal(reduced, whole)
    else:
        needed = target_size((size[0], size[1]), most)
        assert all(side >= least for side, least in zip(reduced.shape[1:], needed, strict=True))


@pytest.mark.parametrize(
    ("kind", "mode", "how"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("MPO", "RGB", {"save_all": True, "append_images": [soft(800, 600)]}),
    ],
)
@pytest.mark.parametrize(
    ("most", "shape"),
    [(401, (600, 800)), (399, (300, 400)), (200, (150, 200)), (100, (75, 100)), (10, (75, 100))],
)
def test_a_reduced_jpeg_shows_the_same(
    kind: str, mode: str, how: dict[str, Any], most: int, shape: tuple[int, int]
) -> None:
    file = stored(soft(800, 600, mode), kind, **how)
    reduced, _ = load_reduced(file, most)
    assert tuple(reduced.shape[1:]) == shape
    expected = F.resize(load_image(file), list(shape), antialias=True)
    assert (reduced.float() - expected.float()).abs().mean() < 2


def test_other_files_are_decoded_whole() -> None:
    file = stored(soft(64, 48), "PNG")
    reduced, size = load_reduced(file, 8)
    assert torch.equal(reduced, load_image(file))
    assert tuple(size) == (48, 64)


def test_all_image_names_of_a_set_are_those_that_pillow_opens() -> None:
    from detr_mini.formats.listing import IMAGE_SUFFIXES

    Image.init()
    opened = {suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN}
    assert set(IMAGE_SUFFIXES) - opened <= {".avif", ".mpo"}


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("deep", [False, True])
def test_a_tiff_is_turned_once_and_its_size_is_that_of_the_upright_image(
    tmp_path: Path, orientation: int, deep: bool
) -> None:
    stored = np.random.default_rng(0).integers(0, 2**16 if deep else 256, (40, 60, 3), np.uint16 if deep else np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    upright = np.rot90(stored, {1: 0, 3: 2, 6: 3, 8: 1}[orientation])
    found = load_image(path)
    assert tuple(found.shape[1:]) == upright.shape[:2] == image_size(path)[0]
    wanted = torch.from_numpy(np.ascontiguousarray(stretch(upright) if deep else upright)).permute(2, 0, 1)
    assert (found.int() - wanted.int()).abs().max() <= 1
