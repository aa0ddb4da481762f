"""Files that strangers might send: each is written by a function that gets a folder and the content of a sound one."""

from __future__ import annotations

import copy
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Content = dict[str, Any]
Maker = Callable[[Path, Content], Path]
MARK = "marker"
"""What a file would write if anything in it ran."""
SPOIL = "evil_module"
"""A module beside the file that writes the mark when it is imported."""


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "best.ckpt")
    return folder / "best.ckpt"


def archived(folder: Path, pickled: bytes, *, storages: dict[str, bytes] | None = None, packed: bool = False) -> Path:
    """A file as `torch.save` writes it, with a pickle of one's own."""
    how = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(folder / "best.ckpt", "w", how) as archive:
        archive.writestr("best/data.pkl", pickled)
        archive.writestr("best/byteorder", b"little")
        for key, numbers in (storages or {}).items():
            archive.writestr(f"best/data/{key}", numbers)
        archive.writestr("best/version", b"3\n")
    return folder / "best.ckpt"


def config(change: Callable[[Content, Path], None]) -> Maker:
    """A sound file whose config is changed in place."""

    def make(folder: Path, content: Content) -> Path:
        content = copy.deepcopy(content)
        change(content["config"], folder)
        return saved(folder, content)

    return make


def setting(part: str, key: str, value: Any) -> Maker:
    """A sound file with one setting of its own; "MARK" in it is a path that must never be there."""

    def change(own: Content, folder: Path) -> None:
        own[part][key] = marked(value, folder)

    return config(change)


def part(name: str, value: Any) -> Maker:
    """A sound file with another part."""
    return lambda folder, content: saved(folder, {**content, name: value})


def marked(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return value.replace("MARK", str(folder / MARK)).replace("SELF", str(folder / f"{SPOIL}.py"))
    if isinstance(value, dict):
        return {key: marked(item, folder) for key, item in value.items()}
    return [marked(item, folder) for item in value] if isinstance(value, list) else value


TARGETS: dict[str, dict[str, Any]] = {
    "shutil.copyfile": {"src": "SELF", "dst": "MARK"},
    "pathlib.Path.write_text": {"self": "MARK", "data": "x"},
    "builtins.open": {"file": "MARK", "mode": "w"},
    "builtins.exec": {"source": "open('MARK', 'w')"},
    "os.system": {"command": "touch MARK"},
    "subprocess.run": {"args": ["touch", "MARK"]},
    "detr_mini.cli.main": {"argv": ["data", "shapes", "root=MARK"]},
    "detr_mini.config.parts.build_part": {
        "what": "model",
        "config": [["_target_", "shutil.copyfile"]],
        "packages": ["shutil"],
    },
    "detr_mini.models.build.build_part": {"what": "x", "config": [["_target_", "shutil.copyfile"]]},
    "detr_mini.models.build.instantiate": {"config": {"_target_": "os.mkdir", "path": "MARK"}},
    "detr_mini.verbs.data_shapes.data_shapes": {"config": {"root": "MARK", "train": 1}},
    "detr_mini.pretrained.packaged.pack": {"path": "MARK"},
    "detr_mini.training.run.train": {"config": {}},
    "detr_mini.models.mini.torch.save": {"obj": 1, "f": "MARK"},
    "detr_mini.models.mini.nn.Linear": {"in_features": 10**9, "out_features": 10**9},
    "detr_mini.vision.backbone.torch.hub.load": {"repo_or_dir": "owner/name", "model": "x"},
    "torch.hub.load": {"repo_or_dir": "owner/name", "model": "x"},
    "torch.load": {"f": "SELF", "weights_only": False},
    "hydra.utils.get_method": {"path": "os.mkdir"},
    "transformers.AutoModel.from_pretrained": {"pretrained_model_name_or_path": "owner/name"},
    "torchvision.transforms.v2.Lambda": {"lambd": "print"},
    "torchvision.transforms.v2.functional.os.system": {"command": "touch MARK"},
    f"{SPOIL}.X": {},
    f"detr_mini.models.{SPOIL}.X": {},
    "detr_mini.models.mini.MiniDETR.__init__": {},
    "detr_mini.models.mini.MiniDETR.__class__": {},
    ".os.system": {},
    "": {},
}
MKDIR = {"_target_": "os.mkdir", "path": "MARK"}
TEXTS = (
    "${oc.create:{_target_: shutil.copyfile, src: SELF, dst: MARK}}",
    "${oc.env:HOME}", "${hydra:runtime.cwd}", "${..backbone}", "x${oc.decode:'1'}", "${",
)  # fmt: skip
KEYS: dict[str, Any] = {
    "_args_": [1], "_recursive_": False, "_partial_": True, "_convert_": "evil", "__class__": "x", "_mode_": 1,
    "_call_": True,
}  # fmt: skip
SIZES: dict[str, tuple[str, str, Any]] = {
    "20,000 wide": ("model", "dim", 20_000),
    "2,000,000 wide": ("model", "dim", 2_000_000),
    "100,000 decoder layers": ("model", "decoder", {"layers": 100_000}),
    "10^9 encoder layers": ("model", "encoder", {"layers": 10**9}),
    "10^30 heads": ("model", "heads", 10**30),
    "no heads": ("model", "heads", 0),
    "width below zero": ("model", "dim", -8),
    "width of a fraction": ("model", "dim", 8.5),
    "width of a word": ("model", "dim", "8"),
    "infinite width": ("model", "dim", float("inf")),
    "10^6 wide feedforward": ("model", "feedforward", 1_000_000),
    "10^6 sample points": ("model", "sample_points", 1_000_000),
    "linformer of 10^6 by 10^6": (
        "model",
        "encoder",
        {"attention": "linformer", "size": [10**6, 10**6], "rank": 10**6},
    ),
    "10^6 random features": ("model", "encoder", {"attention": "performer", "features": 1_000_000}),
    "10^6 points": ("model", "decoder", {"cross_attention": "deformable", "points": 1_000_000}),
    "channels of 10^5 levels": ("backbone", "channels", [1] * 100_000),
    "10^6 channels": ("backbone", "channels", [10**6] * 4),
    "10^6 blocks": ("backbone", "blocks", [10**6] * 4),
    "other widths": ("model", "dim", 16),
    "other depth": ("model", "decoder", {"layers": 3}),
}


def reduced(module: str, name: str, argument: bytes) -> bytes:
    """A pickle that calls `module.name(argument)`; the argument as pickle steps."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + argument + b"\x85R."


def calling(module: str, name: str, argument: bytes) -> Maker:
    return lambda folder, content: archived(folder, reduced(module, name, argument))


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = pickle.encode_long(value)
    return b"\x8a" + bytes([len(raw)]) + raw


def tensor(key: str, numbers: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle steps of a tensor with whatever sizes."""

    def several(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(numbers) + b"tQ"
    rest = number(offset) + several(size) + several(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"


def of_tensor(*sizes: Any, storages: dict[str, bytes] | None = None) -> Maker:
    pickled = b"\x80\x02}" + text("state_dict") + b"}" + text("model.x") + tensor(*sizes) + b"ss."
    return lambda folder, content: archived(folder, pickled, storages=storages or {"0": bytes(16)})


class Runs:
    """Its pickle runs a command."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {MARK}",)


def legacy(folder: Path, content: Content) -> Path:
    torch.save(Runs(), folder / "best.ckpt", _use_new_zipfile_serialization=False)
    return folder / "best.ckpt"


def raw(data: bytes, name: str = "best.ckpt") -> Maker:
    def make(folder: Path, content: Content) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def edited(edit: Callable[[bytearray], bytes | bytearray]) -> Maker:
    """A sound file whose bytes are changed."""

    def make(folder: Path, content: Content) -> Path:
        path = saved(folder, content)
        path.write_bytes(edit(bytearray(path.read_bytes())))
        return path

    return make


def repacked(change: Callable[[dict[str, bytes]], dict[str, bytes]], packed: bool = False) -> Maker:
    """A sound file whose parts are changed and packed again."""

    def make(folder: Path, content: Content) -> Path:
        path = saved(folder, content)
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
            for name, data in change(parts).items():
                archive.writestr(name, data)
        return path

    return make


def bomb(folder: Path, content: Content) -> Path:
    """A few hundred kB that unpack to 300 MB, again and again."""
    return archived(folder, pickle.dumps({}, 2), storages={str(i): bytes(30_000_000) for i in range(10)}, packed=True)


def twice(folder: Path, content: Content) -> Path:
    path = saved(folder, content)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(archive.namelist()[0], reduced("os", "system", text(f"touch {MARK}")))
    return path


def overlapping(folder: Path, content: Content) -> Path:
    """A thousand entries of the directory that share one part's bytes (Fifield 2019)."""
    path = archived(folder, pickle.dumps({}, 2), storages={"0": bytes(1_000_000)})
    with zipfile.ZipFile(path, "a") as archive:
        shared = archive.getinfo("best/data/0")
        for index in range(1, 1000):
            other = copy.copy(shared)
            other.filename = f"best/data/{index}"
            archive.filelist.append(other)
            archive.NameToInfo[other.filename] = other
        archive._didModify = True  # type: ignore[attr-defined]
    return path


def cyclic(own: Content, folder: Path) -> None:
    own["model"]["encoder"]["self"] = own["model"]


def doubling(own: Content, folder: Path) -> None:
    """Sixty lists, each of the one before, twice: 2^60 values in a few hundred bytes."""
    values: list[Any] = [1]
    for _ in range(60):
        values = [values, values]
    own["model"]["encoder"] = values


def deep(own: Content, folder: Path) -> None:
    values: list[Any] = []
    for _ in range(200):
        values = [values]
    own["data"]["augment"] = values


def safetensors(header: Any, numbers: bytes = b"", length: int | None = None) -> Maker:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = struct.pack("<Q", len(data) if length is None else length)
    return raw(size + data + numbers, "best.safetensors")


def declaring(content: str) -> dict[str, Any]:
    """A header of one tensor, and what the file says of itself."""
    return {"__metadata__": {"detr_mini": content}, "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


def exported(change: Callable[[Content], None]) -> Maker:
    """A small file of `export` whose own words are changed."""

    def make(folder: Path, content: Content) -> Path:
        said = copy.deepcopy({key: content[key] for key in ("categories", "image", "config")})
        change(said)
        header = {"__metadata__": {"detr_mini": json.dumps(said)}}
        return safetensors(header)(folder, content)

    return make


def pipe(folder: Path, content: Content) -> Path:
    os.mkfifo(folder / "best.ckpt")
    return folder / "best.ckpt"


def endless(folder: Path, content: Content) -> Path:
    (folder / "best.ckpt").symlink_to("/dev/zero")
    return folder / "best.ckpt"


def peer(**model: Any) -> Maker:
    def change(own: Content, folder: Path) -> None:
        own["model"] = {"_target_": "detr_mini.peers.HFDetector", "name": "detr", **marked(model, folder)}
        own["backbone"] = {"_target_": "detr_mini.peers.OwnBackbone", "name": own["model"]["name"]}

    return config(change)


DEEP_KEY = b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns."
HOSTILE: dict[str, Maker] = {
    **{f"model is {target or 'nothing'}": config(lambda own, folder, t=target, k=keys: own.update(  # type: ignore[misc]
        model=marked({"_target_": t, **k}, folder))) for target, keys in TARGETS.items()},
    **{f"inside the model: {target}": setting("model", "encoder", {"layers": {"_target_": target, **keys}})
       for target, keys in list(TARGETS.items())[:8]},
    "backbone is os.mkdir": config(lambda own, folder: own.update(backbone=marked(MKDIR, folder))),
    "a model in place of the backbone": config(lambda own, folder: own.update(backbone=own["model"])),
    "a data module in place of the model": config(lambda own, folder: own.update(model=own["data"])),
    "target in a list of pairs": config(lambda own, folder: own.update(model=[["_target_", "os.mkdir"]])),
    "target that is a list": setting("model", "_target_", ["os.system"]),
    "target that is a number": setting("model", "_target_", 7),
    **{f"text {value}": setting("model", "dim", value) for value in TEXTS},
    "text in the data": setting("data", "root", TEXTS[0]),
    "text as the target": setting("model", "_target_", "${oc.env:HOME}"),
    **{f"key {key}": setting("model", key, value) for key, value in KEYS.items()},
    "modules named by the file": config(
        lambda own, folder: own.update(modules=[SPOIL], model={"_target_": f"{SPOIL}.X"})),
    "a section that holds itself": config(cyclic),
    "2^60 values": config(doubling),
    "200 levels": config(deep),
    **{name: setting(*where) for name, where in SIZES.items()},
    "a stride of 2^40": config(lambda own, folder: own["backbone"].update(channels=[1] * 40, blocks=[0] * 40)),
    "images of 10^9 pixels a side": part("image", {"size": 10**9, "mean": [0.5] * 3, "std": [0.5] * 3}),
    "images without spread": part("image", {"size": 64, "mean": [0.5] * 3, "std": [0.0] * 3}),
    "images of a word": part("image", "large"),
    "categories by count": part("categories", 10**12),
    "categories with lists for ids": part("categories", {"ids": [[1]], "names": ["a"]}),
    "10^5 equal names": part("categories", {"ids": list(range(10**5)), "names": ["a"] * 10**5}),
    "weights that are a list": part("state_dict", [torch.ones(1)] * 100),
    "weights that are numbers": part("averaged", {"weights": {"x": 1}, "updates": 1}),
    "a tokeniser of another kind": part("tokeniser", {"kind": "os.system", "words": ["x"]}),
    "a tokeniser of one huge word": part("tokeniser", {"kind": "subwords", "tokenizer": {"model": "x" * 10**6}}),
    "attributes by count": part("attributes", 10**12),
    "a pickle that runs": raw(pickle.dumps(Runs())),
    "a pickle of a checkpoint": raw(pickle.dumps({"state_dict": {}})),
    "a pickle of torch before 1.6 that runs": legacy,
    **{f"a call of {module}.{name}": calling(module, name, argument)
       for module, name, argument in (
           ("os", "system", text(f"touch {MARK}")), ("posix", "system", text(f"touch {MARK}")),
           ("builtins", "eval", text(f"open('{MARK}', 'w')")), ("builtins", "bytearray", number(10**10)),
           ("torch", "Tensor", number(10**10)), ("torch", "FloatStorage", number(10**10)), ("torch", "load", text("x")),
           ("_codecs", "encode", text("x")), ("detr_mini.cli", "main", text("train")), (SPOIL, "X", text("x")),
           ("torch._utils", "_rebuild_meta_tensor_no_storage", text("x")), ("collections", "Counter", number(10**10)),
       )},
    "a stack global": lambda folder, content: archived(folder, pickle.dumps(Runs(), 4)),
    "an extension": lambda folder, content: archived(folder, b"\x80\x02\x82\x01."),
    "a key of 200,000 tuples": lambda folder, content: archived(folder, DEEP_KEY),
    "a memo of 2^32": lambda folder, content: archived(folder, b"\x80\x02Nr\xff\xff\xff\xff."),
    "a byte array of 2^40": lambda folder, content: archived(
        folder, b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x."),
    "a text of 2^32": lambda folder, content: archived(folder, b"\x80\x02X\xff\xff\xff\xffx."),
    "an empty pickle": lambda folder, content: archived(folder, b""),
    "numbers that are not there": of_tensor("9", 4, 0, (4,), (1,)),
    "more numbers than there are": of_tensor("0", 10**10, 0, (4,), (1,)),
    "a tensor beyond its numbers": of_tensor("0", 4, 0, (10**10,), (1,)),
    "one number as 10^12": of_tensor("0", 4, 0, (10**6, 10**6), (0, 0)),
    "an offset beyond": of_tensor("0", 4, 10**9, (1,), (1,)),
    "a step back": of_tensor("0", 4, 0, (2,), (-(10**6),)),
    "a size below zero": of_tensor("0", 4, 0, (-4,), (1,)),
    "a packed bomb": bomb,
    "sound, but packed": repacked(lambda parts: parts, packed=True),
    "two lists of tensors": repacked(lambda parts: {**parts, "other/data.pkl": b"\x80\x02}."}),
    "no list of tensors": repacked(lambda parts: {name: data for name, data in parts.items() if "pkl" not in name}),
    "numbers cut short": repacked(lambda parts: {n: d[:4] if "/data/" in n else d for n, d in parts.items()}),
    "one name twice": twice,
    "parts that overlap": overlapping,
    "a directory of 4 GB": edited(lambda data: data[:-10] + b"\xff" * 10),
    "a head that is another's": edited(lambda data: data[:26] + b"\xff\xff" + data[28:]),
    "the first half": edited(lambda data: data[: len(data) // 2]),
    "zeros": raw(bytes(100_000)),
    "a pipe": pipe,
    "a file without end": endless,
    "an archive of nothing": raw(b"PK\x05\x06" + bytes(18)),
    "safetensors: a header of 2^63": safetensors({}, length=2**63),
    "safetensors: a header of 99 MB": safetensors({}, length=99_000_000),
    "safetensors: numbers that are not there": safetensors(
        {"x": {"dtype": "F32", "shape": [10**6], "data_offsets": [0, 4 * 10**6]}}),
    "safetensors: a shape that lies": safetensors(
        {"x": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}, bytes(4)),
    "safetensors: tensors that overlap": safetensors(
        {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "xy"}, bytes(4)),
    "safetensors: says nothing": safetensors({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "safetensors: says 10^5 brackets": safetensors(declaring("[" * 10**5), bytes(4)),
    "safetensors: says a number of 10^5 digits": safetensors(declaring("1" * 10**5), bytes(4)),
    "safetensors: says a list": safetensors(declaring("[]"), bytes(4)),
    "exported: model is os.mkdir": exported(lambda said: said["config"].update(model=MKDIR)),
    "exported: 20,000 wide": exported(lambda said: said["config"]["model"].update(dim=20_000)),
    "exported: text": exported(lambda said: said["config"]["model"].update(dim=TEXTS[0])),
    "a peer from a folder": peer(name="../models"),
    "a peer from the hub": peer(name="owner/model"),
    "a peer of 10^6 layers": peer(config={"decoder_layers": 10**6}),
    "a peer of 20,000 wide": peer(config={"d_model": 20_000}),
    "a peer with a network of timm by address": peer(config={"backbone_config": {
        "model_type": "timm_backbone", "backbone": "hf-hub:owner/model"}}),
    "a peer with code of its own": peer(config={"auto_map": {"AutoModel": f"{SPOIL}.X"}, "trust_remote_code": True}),
}  # fmt: skip
