"""torchvision's detectors in their state files: which one a file holds, and the ResNet that ours can begin with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detr_mini.errors import CheckpointError, some_of
from detr_mini.tensor_files import load_weights

BODY = "backbone.body."
SUFFIXES = (".pth", ".pt", ".safetensors")
_KINDS = (
    ("roi_heads.keypoint_head.", "Keypoint R-CNN"), ("roi_heads.mask_head.", "Mask R-CNN"),
    ("roi_heads.box_predictor.", "Faster R-CNN"), ("head.regression_head.bbox_ctrness.", "FCOS"),
    ("head.classification_head.module_list.", "SSD"), ("head.classification_head.cls_logits.", "RetinaNet"),
)  # fmt: skip
"""How a name of each kind begins; the first that fits."""
_LISTED = 5


def kind_of(names: Iterable[str]) -> str | None:
    """Which detector of torchvision has tensors of these names; None for another one."""
    known = tuple(names)
    if not any(name.startswith("backbone.") for name in known):
        return None
    return next((kind for begin, kind in _KINDS if any(name.startswith(begin) for name in known)), None)


def what_to_do(kind: str, tensors: Mapping[str, Tensor], source: str) -> str:
    """For the error where such a file stands in the place of a checkpoint."""
    depth = resnet_depth(tensors)
    if depth is None:
        return f"it holds a {kind} of torchvision on another network than a ResNet of ours; use it in torchvision"
    return (
        f"it holds a {kind} of torchvision, which does not run here; a training can begin with its ResNet-{depth}: "
        f"detr-mini train experiment=finetune init={source} data.root=FOLDER; or use it in torchvision"
    )


def resnet_depth(weights: Mapping[str, Tensor]) -> int | None:
    """Of the ResNet with these tensors below `BODY`; None for one of other sizes."""
    wide = f"{BODY}layer1.0.conv3.weight" in weights
    begin = f"{BODY}layer3."
    blocks = len({name[len(begin) :].partition(".")[0] for name in weights if name.startswith(begin)})
    depth = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101}.get((blocks, wide))
    last = weights.get(f"{BODY}layer4.0.conv{3 if wide else 2}.weight")
    return depth if last is not None and len(last) == (2048 if wide else 512) else None


@dataclass(frozen=True)
class Body:
    """The ResNet in a state file of a detector of torchvision."""

    source: str
    kind: str
    depth: int
    weights: Mapping[str, Tensor]
    """All tensors of the file."""

    def put_in(self, backbone: nn.Module) -> str:
        """Load it into a ResNet of ours, in place; a sentence about what was taken. CheckpointError if it misfits."""
        own = backbone.state_dict()
        given = {name.removeprefix("backbone."): t for name, t in self.weights.items() if name.startswith(BODY)}
        wrong = [name for name, t in own.items() if name not in given or given[name].shape != t.shape]
        if wrong:
            raise CheckpointError(f"init={self.source}: {len(wrong)} tensors of its ResNet-{self.depth} are missing or "
                                  f"of another shape: {some_of(wrong, _LISTED)}; get the file again")  # fmt: skip
        backbone.load_state_dict({name: given[name] for name in own})
        unused = [name for name in given if name not in own and not name.endswith("num_batches_tracked")]
        left = [name for name in self.weights if not name.startswith(BODY)]
        parts = sorted({".".join(name.split(".")[: 2 if name.startswith("backbone.") else 1]) for name in left})
        return (
            f"init={self.source} is a {self.kind} of torchvision: its ResNet-{self.depth} ({len(own)} tensors of "
            f"{BODY.rstrip('.')}) is the backbone; left out: {', '.join(parts)} ({len(left)} tensors)"
            + (f" and the stages behind the backbone's last ({len(unused)} tensors)" if unused else "")
        )


def body_of(source: str | Any) -> Body | None:
    """The ResNet in a file of a detector of torchvision; None for any other file, folder or name.

    CheckpointError for such a detector on another network.
    """
    from detr_mini.pretrained.published import tensors_in, tensors_of

    path = Path(str(source)).expanduser()
    if path.suffix not in SUFFIXES or not path.is_file():
        return None
    try:
        tensors = tensors_of(path) if path.suffix == ".safetensors" else tensors_in(load_weights(path))
    except CheckpointError:  # whoever reads it as a checkpoint says what is wrong
        return None
    kind = kind_of(tensors or ())
    if tensors is None or kind is None:
        return None
    depth = resnet_depth(tensors)
    if depth is None:
        raise CheckpointError(f"init={source}: {what_to_do(kind, tensors, str(source))}")
    return Body(str(source), kind, depth, tensors)
