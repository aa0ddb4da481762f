"""Images a second that one core loads and augments, COCO's recipe: as it was before issue 25, as it is, and as bytes.

python docs/loading_times.py ROOT [seconds]: ROOT has COCO's layout. One thread, processor time, the forms in turn.
"""

from __future__ import annotations

import sys
import time

import torch

from detr_mini.config.compose import compose
from detr_mini.config.plain import plain_dict
from detr_mini.data.samplers import Key
from detr_mini.models.build import build_part

JITTER = {"_target_": "torchvision.transforms.v2.ColorJitter", "brightness": 0.3, "contrast": 0.3, "saturation": 0.4,
          "hue": 0.02}  # fmt: skip
BEFORE = [
    {"_target_": "detr_mini.data.RandomHorizontalFlip"},
    {"_target_": "detr_mini.data.RandomScaleCrop", "least": 0.4, "most": 2.0},
    {"_target_": "torchvision.transforms.v2.RandomApply", "p": 0.5, "transforms": [JITTER]},
]


def main(root: str, seconds: float) -> None:
    """Print images a second of each form, and bytes of a batch of 16."""
    torch.set_num_threads(1)
    words = [f"data.root={root}", "data.size=640", "data.cache_megabytes=0", "data.val=null", "data.test=null"]
    section = plain_dict(compose("train", ["experiment=coco_mini", "trainer.max_steps=1", *words]).data)
    forms = {}
    for name, more in {"before": {"augment": BEFORE}, "now": {}, "now, as bytes": {"uint8": True}}.items():
        data = build_part("data", {**section, **more}, mean=(0.5,) * 3, std=(0.25,) * 3, stride=32, seed=0)
        data.setup("fit")
        forms[name] = data.dataset("train", training=True)
    spent, done, begun = dict.fromkeys(forms, 0.0), 0, time.monotonic()
    while time.monotonic() - begun < seconds:
        for name, dataset in forms.items():
            started = time.process_time()
            for index in range(8):
                image, _ = dataset[Key((done + index) % len(dataset), done // len(dataset), False)]
            spent[name] += time.process_time() - started
        done += 8
    for name in forms:
        size = image.numel() if "bytes" in name else 4 * image.numel()
        print(f"{name:14} {done / spent[name]:6.1f} images a second, {size / image.numel():.0f} bytes a value")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 60)
