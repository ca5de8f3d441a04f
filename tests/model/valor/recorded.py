"""Where values recorded from the released VALOR lie: one folder is kept here, the others beside the project on some machines."""

from __future__ import annotations

from pathlib import Path

GOLDENS = Path(__file__).parents[2] / "goldens"
PLACES = (GOLDENS / "valor_tiny", Path(__file__).parents[4] / "shared" / "parity" / "valor_tiny")
RELEASED = ("videoswin", "clip")
ABLATIONS = ("ablation_coarse", "ablation_coarse_late", "ablation_audio_video")


def folder_of(name: str) -> Path | None:
    """The folder of a recorded model; None where it is not here."""
    return next((place / name for place in PLACES if (place / name).is_dir()), None)
