"""`detr-mini export`: a checkpoint as one file, for other programs (ONNX, OpenVINO, DETR's) or this one."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from detr_mini.deploy.calibration import calibration_pictures
from detr_mini.deploy.description import INPUTS, PRECISIONS
from detr_mini.deploy.detector import is_exported
from detr_mini.deploy.export import CAPTION_FORMATS, FORMATS, Choice, export_detector, placed, takes_captions
from detr_mini.errors import ConfigError, nearest
from detr_mini.evaluation.metrics.operating_point import with_overlap
from detr_mini.inference.detector import from_checkpoint
from detr_mini.inference.sources import find_pictures
from detr_mini.pretrained.checkpoints import averaged_weights, read_checkpoint
from detr_mini.pretrained.packaged import SUFFIX, pack
from detr_mini.pretrained.published_detr import write_published

ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "safetensors": SUFFIX, "detr": ".pth"}


def export(config: DictConfig) -> Path:
    """Write `config.checkpoint` to `config.output` in `config.format`; the path that was written."""
    output = Path(config.output).expanduser()
    usual = {SUFFIX: "safetensors", ".pth": "detr", ".pt2": "torch"}.get(output.suffix, "onnx")
    kind = config.format or usual
    _check_choice("format", kind, (*FORMATS, "safetensors", "detr"))
    ending = ENDINGS.get(kind, "")
    if (ending and output.suffix != ending) or (not ending and output.suffix in ENDINGS.values()):
        raise ConfigError(f"format={kind} writes a {f'file that ends in {ending}' if ending else 'folder'}, and the "
                          f"output is {output}; use output={output.with_suffix(ending)}")  # fmt: skip
    if is_exported(config.checkpoint):
        raise ConfigError(f"{config.checkpoint} is an exported file already; give the checkpoint that it was made from")
    checkpoint = read_checkpoint(config.checkpoint)
    detector = from_checkpoint(checkpoint, str(config.checkpoint))
    if kind == "safetensors":
        _check_choice("precision", config.precision or "fp16", ("fp16",))
        output.parent.mkdir(parents=True, exist_ok=True)
        pack(checkpoint, averaged_weights(checkpoint), output)
    elif kind == "detr":
        _check_choice("precision", config.precision or "fp32", ("fp32",))
        write_published(checkpoint, averaged_weights(checkpoint), output)
    else:
        choice = Choice(kind, config.precision or "fp32", config.input, config.limit)
        _check_choice("precision", choice.precision, ("fp32",) if kind == "torch" else PRECISIONS)
        _check_choice("input", choice.input, ("pixels",) if kind == "torch" else INPUTS)
        if choice.limit < 1:
            raise ConfigError(f"limit is {choice.limit}; it must be at least 1")
        detector.operating_point = with_overlap(detector.operating_point, config.suppress_iou)
        if config.pictures is not None:
            given = list(config.pictures) if isinstance(config.pictures, ListConfig) else config.pictures
            pictures = [found.path for found in find_pictures(given)]
        else:
            pictures = calibration_pictures(checkpoint["config"].get("data")) if choice.precision == "int8" else []
        sources = checkpoint.get("sources") or ()
        print(*export_detector(detector, output, choice, checkpoint.get("recipe"), pictures, sources), sep="\n")
    captions = kind in CAPTION_FORMATS and takes_captions(detector)
    size = sum(file.stat().st_size for file, _ in placed(output, output, captions))
    print(f"written to {output}: {size / 1e6:.1f} MB")
    return output


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = nearest(str(value), choices)
        raise ConfigError(f"{key} is '{value}'{hint}; choose one of {', '.join(choices)}")
