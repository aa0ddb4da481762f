"""`detr-mini export`: a checkpoint as one small file, without what only resuming needs."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from detr_mini.errors import ConfigError
from detr_mini.inference.detector import from_checkpoint
from detr_mini.pretrained.checkpoints import averaged_weights, read_checkpoint
from detr_mini.pretrained.packaged import SUFFIX, pack


def export(config: DictConfig) -> Path:
    """Write the averaged weights of `config.checkpoint` to the file `config.output`; its path."""
    for key in ("checkpoint", "output"):
        if OmegaConf.is_missing(config, key) or config[key] is None:
            raise ConfigError(f"{key} is not set; add {key}=... (see 'detr-mini export --help')")
    output = Path(config.output).expanduser()
    if output.suffix != SUFFIX:
        raise ConfigError(f"the output {output} does not end in {SUFFIX}; use output={output.with_suffix(SUFFIX)}")
    checkpoint = read_checkpoint(config.checkpoint)
    from_checkpoint(checkpoint, str(config.checkpoint))  # a checkpoint that cannot be used is not written
    output.parent.mkdir(parents=True, exist_ok=True)
    size = pack(checkpoint, averaged_weights(checkpoint), output)
    print(f"written to {output}: {size / 1e6:.1f} MB")
    return output
