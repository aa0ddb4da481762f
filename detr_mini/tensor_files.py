"""The bare reading of a file of weights, below every other room: the only `torch.load` of the package.

`vision` reads the weights of a backbone through it, `pretrained.checkpoints` its checkpoints (and says more of what is
wrong with them). Only tensors and plain values are read. The file's pickle is read twice: first with stand-ins for
tensors, which checks every name and every size against the file; only then by torch, which trusts sizes.
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
"""The kinds of numbers that weights have, and their bytes."""
ARGUMENTS = {
    **dict.fromkeys(b"(N})taesu]R.Qb\x85\x86\x87\x88\x89", 0), **dict.fromkeys(b"Khq\x80", 1),
    **dict.fromkeys(b"Jjr", 4), ord("M"): 2, ord("G"): 8,
}  # fmt: skip
"""Steps of a pickle of tensors and plain values, and the bytes of what each takes (see the library's `pickletools`)."""
COUNTED = {ord("X"): 4, ord("U"): 1, 0x8A: 1}
"""Those that take a text or a long number: the bytes of its length, which stands before it."""
FIRST = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
"""The number that a file of torch before 1.6 begins with."""
LONGEST_PICKLE, MOST_STEPS, MOST_ENTRIES, LONGEST_DIRECTORY = 1 << 26, 500_000, 50_000, 1 << 23
DEEPEST = 50
SHARED = 16
"""Tensors may share their numbers (tied heads, averages of what does not learn): together at most so many times the
file's size."""


class Refused(ValueError):
    """What is wrong with a file."""


def load_weights(path: str | Path) -> Any:
    """The content of a file written by `torch.save`, tensors on the CPU.

    CheckpointError where there is no file, where it cannot be read, is cut off, or holds more than tensors and plain
    values, or tensors that are not as large as it says.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}; check the path")
    try:
        check_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror or error}); check the file's rights") from error
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, KeyError, ...
        reason = f": {error}" if isinstance(error, Refused) else ""
        raise CheckpointError(
            f"{file} holds no weights: it is empty, damaged, or holds more than tensors and plain values{reason}; get "
            "it again"
        ) from error


def check_file(file: Path) -> None:
    """Refused, or any error of a reader, unless `file` holds tensors and plain values of no more than its own size."""
    with file.open("rb") as stream:
        size = file.stat().st_size
        if stream.read(4) == b"PK\x03\x04":
            pickled, storages = _archive(stream, size)
            _check_steps(pickled, 0)
            _StandIns(pickled, storages.get, size).load()
        else:  # what torch wrote before 1.6, as torchvision's older weights are
            data, end = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), 0
            for _ in range(5):  # magic number, version, system, content, names of the tensors' numbers
                begin, end = end, _check_steps(data, end)
                _StandIns(data[begin:end], lambda key: size, size).load()


def _archive(stream: Any, size: int) -> tuple[bytes, dict[str, int]]:
    """The pickle in a zip file of `torch.save`, and the bytes of each storage. Nothing in it is packed or overlaps."""
    stream.seek(max(0, size - 66_000))
    tail = stream.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or int.from_bytes(tail[end + 12 : end + 16], "little") > LONGEST_DIRECTORY:
        raise Refused("it has no directory, or one without reason")
    with zipfile.ZipFile(stream) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        if not entries or len(entries) > MOST_ENTRIES or len({entry.filename for entry in entries}) < len(entries):
            raise Refused("it has no entries, too many, or two of one name")
        place = 0
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise Refused(f"its part {entry.filename[:80]!r} is packed, and torch writes none so")
            stream.seek(entry.header_offset)
            header = stream.read(30)
            names, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            start = entry.header_offset + 30 + names + extra
            if entry.header_offset < place or header[:4] != b"PK\x03\x04" or start + entry.file_size > size:
                raise Refused(f"its part {entry.filename[:80]!r} lies over another one, or is cut off")
            place = start + entry.file_size
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > LONGEST_PICKLE:
            raise Refused("it has no list of its tensors, or one without reason")
        root = pickles[0].filename.removesuffix("data.pkl") + "data/"
        return archive.read(pickles[0]), {entry.filename.removeprefix(root): entry.file_size for entry in entries}


def _check_steps(data: bytes | mmap.mmap, begin: int) -> int:
    """Where the pickle that begins there ends. Refused for a step or a name that no file of tensors has.

    Tuples are followed, for how deep they stand in each other: a deep one as a key overflows the interpreter's stack.
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
                raise Refused("it remembers more than it holds")
        elif step in b"hj":
            stack.append(memo[number])
        elif step == ord("("):
            marks.append(len(stack))
        elif step in b"teu":  # all since the mark become a tuple, or go into a list or a section
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
            raise Refused("its values stand too deep in each other")
    raise Refused("its list of tensors has too many steps")


def _stand_in(module: str, name: str) -> Any:
    """What stands for a name of a file of tensors while sizes are checked."""
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
    """Reads a pickle with stand-ins for tensors and their numbers, and holds their sizes against the file's."""

    def __init__(self, pickled: bytes, bytes_of: Callable[[str], int | None], size: int) -> None:
        super().__init__(io.BytesIO(pickled), encoding="bytes")
        self._bytes_of, self._left = bytes_of, [SHARED * size]

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name."""
        return _stand_in(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """The numbers of a tensor, as many as the file has."""
        _, kind, key, _, numbers, *_ = pid
        text = key.decode() if isinstance(key, bytes) else key
        has = self._bytes_of(text)
        if not isinstance(kind, _Storage) or type(numbers) is not int or has is None or numbers < 0:
            raise Refused(f"the numbers of a tensor ({str(text)[:40]}) are not in it")
        if kind.itemsize * numbers > has:
            raise Refused(f"a tensor has {kind.itemsize * numbers:,} bytes by its list, and {has:,} in the file")
        return _Storage(kind.itemsize, numbers, self._left)


@dataclass
class _Storage:
    """In the place of a tensor's numbers: the bytes of each, how many, and the bytes left for all tensors."""

    itemsize: int
    numbers: int = 0
    left: list[int] = field(default_factory=list)


def _rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> tuple[int, ...]:
    """A tensor's shape; Refused where it reaches outside of its numbers, or repeats them."""
    whole = all(type(n) is int and n >= 0 for n in (*size, *stride, offset))
    if not isinstance(storage, _Storage) or not whole or len(size) != len(stride) or len(size) > 16:
        raise Refused("a tensor has an impossible shape")
    count, last = math.prod(size), offset + sum(max(n - 1, 0) * step for n, step in zip(size, stride, strict=True))
    if count > storage.numbers or (count and last >= storage.numbers):
        raise Refused(f"a tensor of shape {tuple(size)} is larger than its numbers in the file"[:120])
    storage.left[0] -= count * storage.itemsize
    if storage.left[0] < 0:
        raise Refused("its tensors together are far larger than it is")
    return tuple(size)
