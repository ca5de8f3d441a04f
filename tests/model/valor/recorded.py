"""Where values recorded from the released VALOR lie: one folder is kept here, the others beside the project on some machines."""

from __future__ import annotations

import json
import string
from pathlib import Path

GOLDENS = Path(__file__).parents[2] / "goldens"
PLACES = (GOLDENS / "valor_tiny", Path(__file__).parents[4] / "shared" / "parity" / "valor_tiny")
RELEASED = ("videoswin", "clip")
ABLATIONS = ("ablation_coarse", "ablation_coarse_late", "ablation_audio_video", "ablation_clip_text")
LETTERS = (string.ascii_lowercase + string.digits + string.punctuation)[:58]
"""What stands for the 58 words of the recorded CLIP, whose own are not known: ids alone were recorded."""


def folder_of(name: str) -> Path | None:
    """The folder of a recorded model; None where it is not here."""
    return next((place / name for place in PLACES if (place / name).is_dir()), None)


def clip_words(folder: Path) -> str:
    """A folder with a vocabulary of LETTERS, as Hugging Face's CLIP has it."""
    words = [*(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return str(folder)
