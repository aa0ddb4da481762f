"""Safe reading of files of weights: the only `torch.load` of the package.

Only tensors and plain values are read. The file's pickle is read twice. The first time, stand-ins replace the tensors,
and every name and every size is checked against the file. Only then torch reads it, which trusts the sizes.
`pretrained.checkpoints` reads checkpoints with this and gives more detailed errors.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from detr_mini.errors import CheckpointError

SIZES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip
"""The storage types of weights, and their bytes per number."""
ARGUMENTS = {
    **dict.fromkeys(b"(N})taesu]R.Qb\x85\x86\x87\x88\x89", 0), **dict.fromkeys(b"Khq\x80", 1),
    **dict.fromkeys(b"Jjr", 4), ord("M"): 2, ord("G"): 8,
}  # fmt: skip
"""The opcodes in a pickle of tensors and plain values, and the bytes of their arguments (see `pickletools`)."""
COUNTED = {ord("X"): 4, ord("U"): 1, 0x8A: 1}
"""The opcodes with an argument of variable length (text, long integers), and the bytes that give its length."""
FIRST = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
"""The magic number of a file from torch before 1.6."""
LONGEST_PICKLE, MOST_STEPS, MOST_ENTRIES, LONGEST_DIRECTORY = 1 << 26, 500_000, 50_000, 1 << 23
DEEPEST = 50
SHARED = 16
"""Tensors may share a storage (tied heads, averages of frozen weights): in total at most this many times the file's
size."""


class Refused(ValueError):
    """A file that is not read, with the reason."""


def load_weights(path: str | Path) -> Any:
    """The content of a file written by `torch.save`, with tensors on the CPU.

    CheckpointError if the file is missing, unreadable or cut off, if it holds anything but tensors and plain values, or
    if a tensor's stated size does not fit its data.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}; check the path")
    try:
        check_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read ({error.strerror or error}); check the file's permissions"
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, KeyError, ...
        reason = f": {error}" if isinstance(error, Refused) else ""
        raise CheckpointError(
            f"{file} does not hold weights: it is empty, damaged, or holds more than tensors and plain values{reason}. "
            "Get the file again"
        ) from error


def check_file(file: Path) -> None:
    """Check that `file` holds tensors and plain values only, and no more data than its size allows.

    Raises `Refused`, or any exception of the readers.
    """
    with file.open("rb") as stream:
        size = file.stat().st_size
        if stream.read(4) == b"PK\x03\x04":
            pickled, storages = _archive(stream, size)
            _check_steps(pickled, 0)
            _StandIns(pickled, storages.get, size).load()
        else:  # the format of torch before 1.6, in which torchvision's older weights are
            data, end = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), 0
            for _ in range(5):  # magic number, version, system, content, keys of the storages
                begin, end = end, _check_steps(data, end)
                _StandIns(data[begin:end], lambda key: size, size).load()


def _archive(stream: Any, size: int) -> tuple[bytes, dict[str, int]]:
    """The pickle in a zip file of `torch.save`, and the bytes of each storage.

    Refused if an entry is compressed or overlaps another.
    """
    stream.seek(max(0, size - 66_000))
    tail = stream.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or int.from_bytes(tail[end + 12 : end + 16], "little") > LONGEST_DIRECTORY:
        raise Refused("its zip directory is missing or too large")
    with zipfile.ZipFile(stream) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        if not entries or len(entries) > MOST_ENTRIES or len({entry.filename for entry in entries}) < len(entries):
            raise Refused("it has no entries, too many, or two with the same name")
        place = 0
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise Refused(f"its entry {entry.filename[:80]!r} is compressed, which torch never does")
            stream.seek(entry.header_offset)
            header = stream.read(30)
            names, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            start = entry.header_offset + 30 + names + extra
            if entry.header_offset < place or header[:4] != b"PK\x03\x04" or start + entry.file_size > size:
                raise Refused(f"its entry {entry.filename[:80]!r} overlaps another or is cut off")
            place = start + entry.file_size
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > LONGEST_PICKLE:
            raise Refused("its list of tensors is missing or too large")
        root = pickles[0].filename.removesuffix("data.pkl") + "data/"
        return archive.read(pickles[0]), {entry.filename.removeprefix(root): entry.file_size for entry in entries}


def _check_steps(data: bytes | mmap.mmap, begin: int) -> int:
    """The end of the pickle that starts at `begin`. Refused for an opcode or a name that no file of tensors has.

    The nesting depth of tuples is tracked, since a deeply nested tuple as a key overflows the interpreter's stack.
    """
    at, stack, marks, memo = begin, list[int](), list[int](), dict[int, int]()
    for _ in range(MOST_STEPS):
        step = data[at]
        at += 1
        taken = ARGUMENTS.get(step, COUNTED.get(step, 0))
        number = int.from_bytes(data[at : at + taken], "little") if taken else 0
        at += taken + (number if step in COUNTED else 0)
        if step == ord("."):
            return at
        if step == 0x8A and number > 8 and data[at - number : at] != FIRST:
            raise Refused("it holds a number of more than 63 bits")
        if step in b"qr":
            memo[number] = stack[-1]
            if number > MOST_STEPS:
                raise Refused("it stores more values than it has")
        elif step in b"hj":
            stack.append(memo[number])
        elif step == ord("("):
            marks.append(len(stack))
        elif step in b"teu":  # the values since the mark become a tuple, or go into a list or a dict
            mark = marks.pop()
            inside = stack[mark:]
            stack[mark:] = [1 + max(inside, default=0)] if step == ord("t") else []
        elif step in b"\x85\x86\x87":
            count = step - 0x84
            stack[-count:] = [1 + max(stack[-count:])]
        elif step in b"asb":
            del stack[-2 if step == ord("s") else -1 :]
        elif step == ord("R"):
            stack[-2:] = stack[-1:]
        elif step == ord("Q"):
            stack[-1] = 0
        elif step == ord("c"):
            module = data.find(b"\n", at)
            name = data.find(b"\n", module + 1)
            _stand_in(data[at:module].decode(), data[module + 1 : name].decode())
            at = name + 1
            stack.append(0)
        elif step in ARGUMENTS or step in COUNTED:
            if step != 0x80:
                stack.append(0)
        else:
            raise Refused("it holds more than tensors and plain values")
        if stack and stack[-1] > DEEPEST:
            raise Refused("its values are nested too deeply")
    raise Refused("its list of tensors is too long")


def _stand_in(module: str, name: str) -> Any:
    """The stand-in for a name in a file of tensors, while sizes are checked."""
    known: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        ("torch", "Size"): tuple,
    }
    if module == "torch" and name in SIZES:
        return _Storage(SIZES[name])
    if (module, name) not in known:
        raise Refused(f"it names {module}.{name}"[:120] + ", and only tensors and plain values are read")
    return known[module, name]


class _StandIns(pickle.Unpickler):
    """Reads a pickle with stand-ins for tensors and storages, and checks their sizes against the file's."""

    def __init__(self, pickled: bytes, bytes_of: Callable[[str], int | None], size: int) -> None:
        super().__init__(io.BytesIO(pickled), encoding="bytes")
        self._bytes_of, self._left = bytes_of, [SHARED * size]

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name."""
        return _stand_in(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """The stand-in for a storage, which must be in the file in full."""
        _, kind, key, _, numbers, *_ = pid
        text = key.decode() if isinstance(key, bytes) else key
        has = self._bytes_of(text)
        if not isinstance(kind, _Storage) or type(numbers) is not int or has is None or numbers < 0:
            raise Refused(f"the data of a tensor ({str(text)[:40]}) is missing")
        if kind.itemsize * numbers > has:
            raise Refused(f"a tensor should have {kind.itemsize * numbers:,} bytes and has {has:,}")
        return _Storage(kind.itemsize, numbers, self._left)


@dataclass
class _Storage:
    """The stand-in for a storage: its bytes per number, its numbers, and the bytes left for all tensors."""

    itemsize: int
    numbers: int = 0
    left: list[int] = field(default_factory=list)


def _rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> tuple[int, ...]:
    """A tensor's shape. Refused if it exceeds its storage or repeats numbers."""
    whole = all(type(n) is int and n >= 0 for n in (*size, *stride, offset))
    if not isinstance(storage, _Storage) or not whole or len(size) != len(stride) or len(size) > 16:
        raise Refused("a tensor has an impossible shape")
    count, last = math.prod(size), offset + sum(max(n - 1, 0) * step for n, step in zip(size, stride, strict=True))
    if count > storage.numbers or (count and last >= storage.numbers):
        raise Refused(f"a tensor of shape {tuple(size)} is larger than its data"[:120])
    storage.left[0] -= count * storage.itemsize
    if storage.left[0] < 0:
        raise Refused("its tensors together are far larger than the file")
    return tuple(size)
