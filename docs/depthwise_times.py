"""What a training pays for EfficientNet-Lite0: `python docs/depthwise_times.py [images] [height] [width]`, one thread.

Forms in turn, medians; seconds of the processor, so that what else runs on the machine counts little.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import nullcontext

import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn

from detr_mini.cpu_runtime import keep_freed_memory
from detr_mini.vision import fast_depthwise
from detr_mini.vision.backbone import lite0_classifier

ROUNDS = 5
FORMS = ("timm's own", "norms folded", "and depthwise by parts", "and frozen to stride 4")


def network(form: str) -> nn.Sequential:
    """The stages up to stride 32, norms frozen."""
    whole = freeze_batch_norm_2d(lite0_classifier("none"))
    if form != FORMS[0]:
        fast_depthwise.fold_frozen_norms(whole)
    stages = nn.Sequential(whole.conv_stem, whole.bn1, *whole.blocks)
    if form == FORMS[-1]:
        stages[:4].requires_grad_(False)
    return stages.to(memory_format=torch.channels_last).train()


def main(images: int = 8, height: int = 240, width: int = 320) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.set_flush_denormal(True)
    x = torch.randn(images, 3, height, width).to(memory_format=torch.channels_last)
    by_parts = fast_depthwise.depthwise
    networks = {form: network(form) for form in FORMS}
    print(f"ms for {images} images of {width} x {height}: forward + backward = both (images a second)")
    for dtype in (torch.bfloat16, torch.float32):
        times: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
        for _ in range(1 + ROUNDS):
            for form, stages in networks.items():
                fast_depthwise.depthwise = by_parts if form in FORMS[2:] else fast_depthwise.depthwise_plain
                begun = time.thread_time()
                with torch.autocast("cpu", dtype) if dtype == torch.bfloat16 else nullcontext():
                    y = stages(x)
                between = time.thread_time()
                y.float().square().mean().backward()
                times[form].append((between - begun, time.thread_time() - between))
        for form, own in times.items():
            forward, backward = (statistics.median(part[1:]) for part in zip(*own, strict=True))
            both = forward + backward
            print(f"{str(dtype)[6:]:9} {form:24} {forward * 1e3:5.0f} + {backward * 1e3:5.0f} = {both * 1e3:5.0f} "
                  f"({images / both:.1f})")  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
