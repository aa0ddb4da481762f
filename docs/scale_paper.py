"""Hours of a training by kind of GPU, on paper: from the operations, products and bytes of a step, counted on a CPU.

    python docs/scale_paper.py images=118287 epochs=36 experiment=coco data=coco_mini data.root=$DATA/coco_mini \\
        data.size=640 augment=null

Takes the settings of `detr-mini benchmark step`; `images` and `epochs` are those of the training to be estimated.
A step takes the longer of two times: the host's, which gives the GPU one operation after the other (`HOST` each), and
the GPU's, which is that of its products (at `SHARE` of what the data sheet says) and of what all operations read and
write (at `SHARE` of the memory's rate). The first does not depend on the batch, the second grows with it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from count_operations import counted

from detr_mini.evaluation.report.table import markdown

GPUS = {"T4": (65, 320), "L4": (121, 300), "RTX 4090": (165, 1008), "A100 80 GB": (312, 2039), "H100 SXM": (989, 3350),
        "H200": (989, 4800)}  # fmt: skip
"""Products in half precision, TFLOP/s without sparsity, and GB/s of memory, from the makers' data sheets."""
HOST = 25e-6
"""Seconds of the host for an operation; beside an H100 it was 22 and 33 microseconds (docs/log/many-processes.md)."""
SHARE = 0.5
BATCHES = (16, 64)


def main(images: int, epochs: int, words: list[str]) -> None:
    """Print what was counted, and a row for each kind of GPU."""
    few = counted([*words, "data.batch_size=2"], "bf16-mixed")
    more = counted([*words, "data.batch_size=4"], "bf16-mixed")
    each = {name: (more[name] - few[name]) / 2 for name in ("flops", "bytes")}
    fixed = {name: few[name] - 2 * each[name] for name in each}
    for what, counts in (("step", fixed), ("image", each)):
        print(f"for each {what}: {counts['flops'] / 1e9:.1f} GFLOP, {counts['bytes'] / 1e9:.2f} GB")
    print(f"{few['operations']:,} operations in a step")
    rows = []
    for name in GPUS:
        rates = [batch / max(HOST * few["operations"], on_device(name, fixed, each, batch)) for batch in BATCHES]
        hours = images * epochs / 3600 / rates[-1]
        rows.append([name, *(f"{rate:,.0f}" for rate in rates), f"{hours:,.1f}", f"{hours / 8:,.1f}"])
    print(markdown(["GPU", *(f"images/s, {batch} in a step" for batch in BATCHES), "hours, one GPU", "eight"], rows))


def on_device(gpu: str, fixed: Mapping[str, Any], each: Mapping[str, Any], batch: int) -> float:
    """Seconds that a GPU computes in a step."""
    tera, giga = GPUS[gpu]
    flops, moved = (fixed[name] + batch * each[name] for name in ("flops", "bytes"))
    return float(flops / (SHARE * tera * 1e12) + moved / (SHARE * giga * 1e9))


if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[1:3])
    main(int(given["images"]), int(given["epochs"]), sys.argv[3:])
