"""Objects followed from frame to frame: ByteTrack (Zhang et al. 2022) of the package `trackers` (extra `video`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from detr_mini.errors import UserError, install
from detr_mini.structures import Detections

FAINTER = 0.5
"""Detections from this share of the threshold on keep a track alive; they begin none."""
AGREES = 0.2
"""The least IoU of a detection with the place where a track is expected."""


class Tracker:
    """Numbers for the objects of a video that stay the same from frame to frame."""

    def __init__(self, threshold: float | int, rate: float | int) -> None:
        """`threshold`: the score from which a detection begins a track, that of the detector; `rate`: frames a second.

        UserError where the package is missing.
        """
        try:
            from trackers import ByteTrackTracker
        except ImportError:
            raise UserError(f"track=true needs the package trackers; install it with: {install('video')}") from None
        # the package's own bars (0.7 to begin, 0.6 for a sure detection) would drop what our detectors report
        self._tracker: Any = ByteTrackTracker(
            frame_rate=max(rate, 0.1), track_activation_threshold=threshold, high_conf_det_threshold=threshold,
            minimum_consecutive_frames=1, minimum_iou_threshold=AGREES,
        )  # fmt: skip
        self.threshold = threshold
        self.least = FAINTER * threshold
        """Give detections from this score on."""

    def follow(self, found: Detections) -> tuple[Detections, list[int | None]]:
        """The detections of the next frame that are sure or belong to a track, and each one's number, if it has one.

        An object has a number from its second frame on.
        """
        import supervision

        rows = supervision.Detections(
            xyxy=found.boxes.float().numpy().reshape(-1, 4), confidence=found.scores.float().numpy(),
            class_id=found.labels.numpy().astype(int), data={"row": np.arange(len(found))},
        )  # fmt: skip
        followed = self._tracker.update(rows)
        numbers: dict[int, int] = {}
        if len(followed):
            pairs = zip(followed.data["row"].tolist(), followed.tracker_id.tolist(), strict=True)
            numbers = {row: number for row, number in pairs if number >= 0}
        kept = [row for row, score in enumerate(found.scores.tolist()) if score >= self.threshold or row in numbers]
        return found[kept], [numbers.get(row) for row in kept]
