"""Damaged and oversized pictures: one sentence each, whatever the file holds; never a crash, a hang or gigabytes."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from damaged_pictures import SIGNATURE, chunk, deep_png, sound
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from data_parts import write_coco
from detr_mini.cli import main
from detr_mini.errors import DataError
from detr_mini.images import decoding
from detr_mini.images.decoding import BUDGET, bytes_needed, room_for
from detr_mini.images.deep_png import decode_deep_png
from detr_mini.images.load import load_image
from memory_parts import growth

HERE = Path(__file__).parent
PATHS = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
FUZZED = int(os.environ.get("DETR_MINI_FUZZED", "300"))


def run_child(*words: str | Path) -> list[str]:
    """The lines that a Python of its own prints; it must end by itself, without an error."""
    env = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, words)], env=env, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"ended by {done.returncode} after {len(lines)} lines: {done.stderr[-2000:]}"
    return lines


@pytest.mark.slow
def test_s06_a_damaged_picture_of_any_kind_is_a_sentence_within_five_seconds_and_a_gigabyte(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in run_child(HERE / "damaged_pictures.py", tmp_path, str(FUZZED), "0")]
    assert len(rows) == FUZZED
    assert not [row for row in rows if row["said"].startswith("FAULT")]
    assert max(row["seconds"] for row in rows) < 5
    assert max(row["megabytes"] for row in rows) < 1000
    refused = Counter(row["name"] for row in rows if row["said"] != "read")
    assert set(refused) == set(sound())  # no kind of file stays sound whatever is done to it


def broken_deep_files() -> dict[str, bytes]:
    values = np.random.default_rng(0).integers(0, 65536, (3, 24, 31)).astype(np.uint16)
    whole = deep_png(values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 31, 24, 16, 2, 0, 0, 0))
    raw, end = bytes(24 * (1 + 31 * 6)), chunk(b"IEND", b"")

    def holding(rows: bytes) -> bytes:
        return SIGNATURE + header + chunk(b"IDAT", rows) + end

    return {
        "no rows": holding(b""),
        "the first half": whole[: len(whole) // 2],
        "a wrong checksum": whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:],
        "a wrong checksum of the header": whole[:29] + bytes([whole[29] ^ 1]) + whole[30:],
        "too few rows": holding(zlib.compress(raw[:-7])),
        "too many rows": holding(zlib.compress(raw + b"\0" * 10_000_000)),
        "a filter that does not exist": holding(zlib.compress(b"\x09" + raw[1:])),
        "no end": whole[:-12],
        "rows that are not packed": holding(raw),
        "packed rows without their checksum": holding(zlib.compress(raw)[:-4]),
        "no picture": SIGNATURE + header + end,
    }


def test_s06_a_damaged_sixteen_bit_picture_is_unreadable_and_ends_nothing(tmp_path: Path) -> None:
    for name, data in broken_deep_files().items():
        (tmp_path / f"{name}.png").write_bytes(data)
    child = (
        "import sys; from pathlib import Path; from detr_mini.images.load import load_image\n"
        "from detr_mini.errors import DataError\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: load_image(path); print(path, 'was read')\n"
        "    except DataError as error: print(error)"
    )
    lines = run_child("-c", child, tmp_path)
    assert len(lines) == len(broken_deep_files())
    for name, line in zip(sorted(f"{name}.png" for name in broken_deep_files()), lines, strict=True):
        assert f"{name} cannot be decoded (" in line or f"{name} is not an image that can be read (" in line


def test_s06_data_check_reports_a_damaged_sixteen_bit_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(tmp_path, "train", annotations=[{"bbox": [1, 2, 3, 4]}])
    (file,) = sorted((tmp_path / "train").iterdir())[:1]
    file.write_bytes(broken_deep_files()["no rows"])
    main(["data", "check", f"data.root={tmp_path}"])
    assert "unreadable image" in capsys.readouterr().out


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
@pytest.mark.parametrize("filters", range(5))
def test_s06_a_sound_sixteen_bit_picture_keeps_all_its_bits(
    colour: int, channels: int, filters: int, tmp_path: Path
) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (channels, 9, 13)).astype(np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(deep_png(values, colour))
    np.testing.assert_array_equal(decode_deep_png(path, (13, 9)).numpy(), values)
    path.write_bytes(deep_png(values, colour, filters))  # the same bytes mean something else: no error is enough
    assert decode_deep_png(path, (13, 9)).shape == values.shape


def large_deep(path: Path, width: int, height: int) -> Path:
    pack = zlib.compressobj(9)
    row = bytes(1 + width * 6)
    packed = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    path.write_bytes(SIGNATURE + header + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    return path


def test_s07_a_small_file_that_decodes_to_gigabytes_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = large_deep(tmp_path / "a.png", 12_000, 9_900)
    assert path.stat().st_size < 1_000_000
    grown, began = growth(), time.process_time()
    with pytest.raises(DataError, match=r"a\.png takes 2\.5 GB to decode, over the limit of 1\.1 GB"):
        load_image(path)
    assert grown() < 50
    assert time.process_time() - began < 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for the most memory that was held")
def test_s07_the_largest_pictures_that_are_read_stay_within_the_budget(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    large_deep(tmp_path / "deep.png", 7_000, 7_000)
    rgb = Image.new("RGB", (10_900, 10_900), "red")
    rgb.save(tmp_path / "a.jpg")
    rgb.save(tmp_path / "b.png", compress_level=1)
    rgb.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (10_900, 10_900), "red").save(tmp_path / "alpha.png", compress_level=1)
    child = (
        "import sys; from pathlib import Path; from detr_mini.images.load import load_image\n"
        "from damaged_pictures import most_bytes\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    Path('/proc/self/clear_refs').write_text('5'); before = most_bytes()\n"
        "    load_image(path); print(path.name, most_bytes() - before)"
    )
    held = {name: int(more) for name, more in (line.split() for line in run_child("-c", child, tmp_path))}
    assert len(held) == 5
    assert all(300_000_000 < more < 1.05 * BUDGET for more in held.values()), held
    assert held["turned.jpg"] < 1.1 * held["a.jpg"], held  # it is turned while it is written, not in a second copy


def test_s07_threads_share_one_budget() -> None:
    inside, most, lock = [0], [0], threading.Lock()

    def decode() -> None:
        with room_for(int(0.3 * BUDGET), "a.png"), room_for(BUDGET, "what is inside asks for nothing"):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.01)
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=decode) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most[0] == 3
    assert decoding._used[0] == 0


class Timed(Dataset[torch.Tensor]):
    """When each of 12 decodings began and ended; every third needs more than a worker's share."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        large = index % 3 == 0
        with room_for(BUDGET // (2 if large else 8), "a.png"):
            began = time.monotonic()
            time.sleep(0.02)
            return torch.tensor([began, time.monotonic(), large], dtype=torch.float64)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks between processes there")
def test_s07_workers_share_one_budget() -> None:
    rows = torch.cat(list(DataLoader(Timed(), batch_size=1, num_workers=4, multiprocessing_context="fork"))).tolist()
    for began, ended, _ in (row for row in rows if row[2]):
        beside = [row for row in rows if row[0] < ended and row[1] > began]
        assert len(beside) == 1  # itself


def test_s07_what_a_picture_needs_counts_what_its_decoder_holds(tmp_path: Path) -> None:
    image = Image.new("RGB", (100, 50))
    needed = {}
    for name, how in (("a.png", {}), ("a.jpg", {}), ("p.jpg", {"progressive": True}), ("a.webp", {})):
        image.save(tmp_path / name, **how)
        with Image.open(tmp_path / name) as opened:
            needed[name] = bytes_needed(opened) // 5000
    assert needed == {"a.png": 7, "a.jpg": 7, "p.jpg": 13, "a.webp": 23}
