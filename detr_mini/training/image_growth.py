"""Progressive resizing: a training starts on small images, which are faster, and ends on full-size ones.

Howard 2018 (fast.ai), Tan & Le 2021 (EfficientNetV2, sec. 4). docs/log/photographs.md has what it gains here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageGrowth:
    """Which size images have at which point of the training (`trainer.coarse_scale`, `coarse_until`, `coarse_grow`).

    Sides are multiplied by `scale` until the share `until` of the training is done; after that, images keep their full
    size. With `grow`, the factor rises linearly from `scale` to 1 over that share.
    """

    scale: float | int = 1.0
    until: float | int = 0.0
    grow: bool = False

    def scale_at(self, progress: float) -> float:
        """The factor on the sides when the share `progress` (0 to 1) of the training is done."""
        if progress >= self.until:
            return 1.0
        return self.scale + ((1 - self.scale) * progress / self.until if self.grow else 0.0)
