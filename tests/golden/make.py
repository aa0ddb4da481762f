"""Golden checkpoints: one of each recipe as commit a5849b7 writes it, tiny. Run at that commit, once:

    PYTHONPATH=.:tests:tests/golden python tests/golden/make.py [NAME ...]

Each is best.ckpt of a real `detr-mini train` of two steps on made scenes, at widths of 8 to 32, and the raw logits and
boxes that the commit gives for a fixed input (`golden_parts.raw_output`), in NAME.npz. They are never made again:
`test_golden_checkpoints.py` holds every later version to them. What changes raw outputs needs a key in the config that
old files lack.

Three changes are made to what the training wrote, all to save space, none to the keys:
- `optimizer_states` is an empty list;
- the parameters of published networks (EfficientNet-Lite0, MiniLM) keep name, shape and type, and lose their values: in
  the file each is one number expanded to the shape. The test puts values in by rule (`golden_parts.filled`), and the
  expected outputs were computed with those;
- where averaged and plain weights were one tensor, they still are.

Not here: experiments that build the model of another one here (shapes as quickstart; shapes_length as shapes_captions;
bccd, bccd_100, bccd_trainval, coco_mini and coco128 as finetune), and backbone=resnet* and mobilenet*, which no
experiment names. Beyond the experiments: every kind of attention, model=detr, two peers, and an exported file.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detr_mini.data.shapes import ensure_scenes
from golden_parts import FOLDER, OUTSIDE, filled, raw_output

import detr_mini
from detr_mini.cli import main
from peer_parts import SMALL

COMMON = [
    "data.size=64", "data.batch_size=4", "data.workers=0", "trainer.max_steps=2", "trainer.max_minutes=null",
    "trainer.max_epochs=null", "optim.warmup_steps=1", "trainer.precision=32-true",
    "trainer.progress=false", "trainer.threads=1", "logger=csv",
]  # fmt: skip
MADE = ["data.make={train: 16, val: 8, test: 6, size: 64, seed: 0}"]
CONVNET = ["backbone.channels=[4,8,8,8]", "backbone.blocks=[0,1,1,1]"]
MINI = ["model.dim=8", "model.heads=2", "model.feedforward=16", "model.queries=6", "model.sample_channels=4"]
JOINT = "model.joint={layers: 1, width: 8, heads: 2, pair_dim: 4, likenesses: 2}"
FAST = ["optim=adamw", "optim.optimizer.lr=0.02"]  # two steps at 0.0001 leave all queries of these models alike
GROUNDED = [*MINI, "data.captions_per_image=2", JOINT]
TEXT = ["model.text.layers=1", "model.text.heads=2", "model.text.feedforward=16", "data.tokenizer.size=200"]
SPLITS = [f"data.{s}={{images: {s}, annotations: annotations/{s}.json}}" for s in ("train", "val", "test")]
SHAPES = ["experiment=shapes", *MADE, *CONVNET, *MINI, "model.sample_points=3"]
DETR = [*FAST, "model.dim=16", "model.heads=2", "model.feedforward=16", "model.encoder_layers=1",
        "model.decoder_layers=2", "model.queries=6"]  # fmt: skip
RECIPES: dict[str, list[str]] = {
    "quickstart": ["experiment=quickstart", *MADE, *CONVNET, *MINI],
    "finetune": ["experiment=finetune", *MINI, "model.queries=auto"],
    "coco": ["experiment=coco", *MINI, "data.test=null", *SPLITS[:2]],
    "shapes_captions": ["experiment=shapes_captions", *MADE, *CONVNET, *GROUNDED, *TEXT],
    "bccd_captions": ["experiment=bccd_captions", *GROUNDED, *TEXT,],
    "minilm": ["data=shapes_captions", "model=mini_grounded_minilm", *MADE, *CONVNET, *GROUNDED],
    "windowed": [*SHAPES, "model.encoder.attention=windowed", "model.encoder.window=1", "model.similarity=cosine"],
    "performer": [*SHAPES, "model.encoder={attention: performer, features: 8}", "model.similarity=dot"],
    "deformable": [*SHAPES, "model.encoder={attention: linformer, size: [8, 8], rank: 4}",
                   "model.decoder={cross_attention: deformable, points: 2}"],
    "detr": ["model=detr", *FAST, *MADE, *CONVNET, *DETR],
    "hf_detr": ["model=hf", *FAST, "model.name=detr", *MADE, "model.queries=6"],
    "hf_rt_detr_v2": ["model=hf", *FAST, "model.name=rt_detr_v2", *MADE, "model.queries=6"],
}  # fmt: skip
FORMS = {"finetune": "made", "coco": "made", "bccd_captions": "voc"}
"""Which data each trains on; the others make their own."""
ZEROS = {dtype: torch.zeros((), dtype=dtype) for dtype in (torch.float32, torch.int64)}


def hydras(value: Any) -> str:
    """A plain value as Hydra reads it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {hydras(item)}" for key, item in value.items()) + "}"
    return f"[{', '.join(map(hydras, value))}]" if isinstance(value, list) else str(value)


def data_sets(root: Path) -> None:
    """Made scenes as they are, and as cells in VOC's form."""
    ensure_scenes(root / "made", train=16, val=8, test=6, seed=0, size=64, processes=1)
    shutil.copytree(root / "made", root / "cells")
    for file in (root / "cells" / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        names = ("RBC", "WBC", "Platelets")
        content["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
        for annotation in content["annotations"]:
            annotation["category_id"] = annotation["category_id"] % 3 + 1
        file.write_text(json.dumps(content))
    assert main(["data", "convert", f"data.root={root / 'cells'}", "to=voc", f"output={root / 'voc'}"]) == 0
    lists = root / "voc" / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("".join((lists / f"{split}.txt").read_text() for split in ("train", "val")))


def make(name: str, root: Path) -> None:
    """Train, keep the checkpoint without what the docstring of this file says, and write what it answers."""
    form = FORMS.get(name, f"own_{name}")
    more = [f"data.root={root / form}", f"run_folder={root / 'runs' / name}"]
    if name == "bccd_captions":
        more.append(f"data.refer.folder={root / 'captions'}")
    if name.startswith("hf_"):
        more.append(f"model.config={hydras(_settings(name.removeprefix('hf_')))}")
    overrides = [word for word in COMMON if word.partition("=")[0] not in dict.fromkeys(RECIPES[name])]
    assert main(["train", *overrides, *RECIPES[name], *more]) == 0, name
    checkpoint = torch.load(root / "runs" / name / "best.ckpt", weights_only=True)
    checkpoint["optimizer_states"] = []
    published = "efficientnet" in checkpoint["config"]["backbone"]["_target_"]
    outside = OUTSIDE if published else OUTSIDE[1:]
    for weights in (checkpoint["state_dict"], checkpoint["averaged"]["weights"]):
        for key, tensor in weights.items():
            if key.removeprefix("model.").startswith(outside):
                weights[key] = ZEROS[tensor.dtype].expand(tensor.shape)
    text = json.dumps(checkpoint["config"])
    assert str(root) in text
    checkpoint["config"] = json.loads(text.replace(f"{root}/", ""))  # a path of this machine says nothing
    torch.save(checkpoint, FOLDER / f"{name}.ckpt")
    whole = root / f"{name}.ckpt"
    torch.save(filled(torch.load(FOLDER / f"{name}.ckpt", weights_only=True)), whole)
    detector = detr_mini.load(whole)
    output = {key: tensor.numpy() for key, tensor in raw_output(detector).items()}
    np.savez_compressed(FOLDER / f"{name}.npz", **output)
    spread = {key: [f"{v:.4f}" for v in (value.std(), value.std(1).mean())] for key, value in output.items()}
    print(f"{name}: {(FOLDER / f'{name}.ckpt').stat().st_size:,} bytes; spread, and spread over queries: {spread}")
    if name == "shapes_captions":
        assert main(["export", f"checkpoint={whole}", f"output={FOLDER / 'exported.safetensors'}"]) == 0
        exported = raw_output(detr_mini.load(FOLDER / "exported.safetensors"))
        np.savez_compressed(FOLDER / "exported.npz", **{key: tensor.numpy() for key, tensor in exported.items()})


def _settings(kind: str) -> dict[str, Any]:
    """The small settings of a peer's kind, half as wide."""
    wide = {"d_model", "encoder_ffn_dim", "decoder_ffn_dim", "encoder_hidden_dim"}
    given = {key: 16 if key in wide else value for key, value in SMALL[kind].items()}
    network = {**given["backbone_config"], "hidden_sizes": [8, 8, 8, 8]}
    if kind == "detr":  # queries of its usual spread, 0.02, would all answer alike
        return {**given, "backbone_config": network, "init_std": 0.5}
    return {**given, "backbone_config": network, "encoder_in_channels": [8] * 3, "decoder_in_channels": [16] * 3}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data_sets(Path(folder))
        for wanted in sys.argv[1:] or RECIPES:
            make(wanted, Path(folder))
