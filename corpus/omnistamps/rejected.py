"""Captions of OmniStamps with one wrong fact each, among which a model can be taught and asked to choose the right one.

For every clip the retrieval text and others in the same words, in which the thing seen, heard or talked about is another: ``negatives`` of
an annotation file for retrieval, in turns of the three. Wrong things are drawn among all that the role has in training clips, so that no
word gives a wrong caption away.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnivast.corpus.omnistamps.facts import SourceError, Stamp, read_stamps
from omnivast.corpus.omnistamps.texts import OMNI
from omnivast.utils.files import write_atomically
from omnivast.utils.random import stable_seed

ROLES = ("seen", "heard", "said")
REJECTED = 7
"""Per clip: eight captions in all, as many as Panda-70M has teachers."""


def write_rejected(folder: Path, source: Path, output: Path, seed: int = 0) -> list[Path]:
    """``choose_train.json``, ``choose_val.json`` and ``choose_test.json`` in ``output``, from the annotations of a set in ``folder`` and
    the stamps of ``source``. The same for the same arguments. Raises SourceError."""
    stamps = read_stamps(source)
    try:
        clips = {row["clip_id"]: row for row in json.loads((folder / "clips.json").read_text(encoding="utf-8"))}
    except FileNotFoundError:
        raise SourceError(f"{folder}: has no clips.json; make a set with omnivast omnistamps --output {folder}") from None
    known = {role: sorted({row["stamps"][role] for row in clips.values() if row["split"] == "train"}) for role in ROLES}
    written = []
    for split in ("train", "val", "test"):
        texts = json.loads((folder / f"ret_{split}.json").read_text(encoding="utf-8"))
        rows = [{**row, "negatives": rejected(row["desc"], clips[row["video_id"]]["stamps"], stamps, known, f"{seed} {row['video_id']}")}
                for row in texts]
        path = output / f"choose_{split}.json"
        written.append(write_atomically(path, json.dumps(rows, indent=0, ensure_ascii=False) + "\n"))
    return written


def rejected(caption: str, facts: Mapping[str, str], stamps: Mapping[str, Stamp], known: Mapping[str, Sequence[str]],
             key: str) -> list[str]:
    """``REJECTED`` captions in the words of ``caption``, whose facts are the stamps ``facts`` by role, each with another in place of one.
    ``known``: the stamps of each role; ``key``: what decides the draws. Raises ValueError for a caption that is none of these facts."""
    phrases = {role: stamps[facts[role]].phrase for role in ROLES}
    template = next((template for template in OMNI if template.format(**phrases) == caption), None)
    if template is None:
        raise ValueError(f"'{caption}' is no caption of {', '.join(phrases.values())}")
    rng = random.Random(stable_seed("rejected", key))
    start = rng.randrange(len(ROLES))
    places = [ROLES[(start + place) % len(ROLES)] for place in range(REJECTED)]
    others: dict[str, Any] = {role: iter(rng.sample([name for name in known[role] if name not in facts.values()], places.count(role)))
                              for role in ROLES}
    return [template.format(**{**phrases, role: stamps[next(others[role])].phrase}) for role in places]


def wrong_fact(caption: str, facts: Mapping[str, str], stamps: Mapping[str, Stamp]) -> str | None:
    """The role whose fact a rejected caption has wrong; None for a caption whose facts are all right."""
    said = {role: re.escape(stamps[facts[role]].phrase) for role in ROLES}
    return next((role for role in ROLES if not re.search(rf"(?<!\w){said[role]}(?!\w)", caption)), None)
