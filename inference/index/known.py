"""Clips whose texts are known, kept with an index to tell by them what a score means: how often a text finds something whose own clip is
not there (sure.py), and how much the matching head is to count (rerank.py).

They are an index of their own, in the folder ``known`` of the other, made by the same model in the same way.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from omnivast.config.paths import as_path
from omnivast.config.tasks import Group, Modality, Objective, Task
from omnivast.data.annotations.load import load_annotations
from omnivast.inference.index.query import Searcher
from omnivast.inference.index.sure import QueryError, Weights
from omnivast.inference.loading import Loaded
from omnivast.model.interface import Rows
from omnivast.utils.files import write_atomically

FOLDER, FILE = "known", "texts.json"
TEXTS = 1000
"""Texts that are kept, at most."""


@dataclass(frozen=True)
class Known:
    """``texts`` (T, …), and ``own`` (T, rows): which moments of the index ``searcher`` are of a clip that a text is about."""

    searcher: Searcher
    texts: Rows
    own: np.ndarray

    def absent(self, weights: Weights, has: frozenset[Modality]) -> np.ndarray:
        """(texts,) the best score of each text, its own clips left out, by the tracks ``has``; empty where nothing can be compared so."""
        best = self.searcher.best(self.texts, weights, has, leave_out=self.own)
        return best[np.isfinite(best)]


def texts_to_fit(parts: Loaded, file: str | Path | None) -> tuple[Path, Path | None, list[tuple[str, str]]]:
    """(a list of clips with texts, where its clips lie if that is known, its (text, id of its clip), at most ``TEXTS`` of them drawn by a
    fixed seed). ``file`` None: the first retrieval test of the model's own run. Raises AnnotationError; QueryError where there is none."""
    source, media = _val_list(parts) if file is None else (as_path(str(file)), None)
    task = Task(((Objective.RETRIEVAL, (Group((Modality.VISION, Modality.AUDIO)),)),))
    rows = load_annotations(source, task, training=False)
    pairs = [(text, row.clip_id) for row in rows for own in row.captions.values() for text in own]
    if not pairs:
        raise QueryError(f"{source}: holds no captions; expected clips with the texts that are to find them")
    return source, media, pairs if len(pairs) <= TEXTS else random.Random(0).sample(pairs, TEXTS)


def _val_list(parts: Loaded) -> tuple[Path, Path | None]:
    for file, media in parts.facts.get("tests", ()):
        if as_path(file).is_file():
            return as_path(file), as_path(media) if media else None
    raise QueryError("the model's run names no texts with clips that are at hand; name a file: --fit VAL.json")


def own_moments(searcher: Searcher, texts: Sequence[tuple[str, str]]) -> np.ndarray:
    """(texts, rows) bool: which moments are of the clips that a text is given for, (text, id of its clip). A text that is given for several
    clips is about all of them."""
    rows = np.flatnonzero(searcher.bits)
    places = searcher.store.places(rows.tolist())
    clips: dict[str, np.ndarray] = {}
    for clip in dict.fromkeys(clip for _, clip in texts):
        clips[clip] = np.zeros(len(searcher.bits), bool)
        clips[clip][rows] = [is_clip(place.path, clip) for place in places]
    by_text: dict[str, np.ndarray] = {}
    for text, clip in texts:
        by_text[text] = by_text[text] | clips[clip] if text in by_text else clips[clip]
    return np.stack([by_text[text] for text, _ in texts])


def is_clip(path: str, clip_id: str) -> bool:
    """Whether a file is the clip of this id: its path, with or without the folders above and the ending."""
    named = PurePosixPath(path)
    return any(str(own) == clip_id or str(own).endswith(f"/{clip_id}") for own in (named, named.with_suffix("")))


def read_texts(folder: Path) -> list[tuple[str, str]]:
    """(a text, the id of its clip) of all texts that are kept with an index; none where it was not fitted."""
    path = folder / FOLDER / FILE
    return [(text, clip) for text, clip in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def write_texts(folder: Path, texts: Sequence[tuple[str, str]]) -> None:
    """Keep the texts: with them the clips, which are indexed before, are known."""
    write_atomically(folder / FOLDER / FILE, json.dumps(list(texts), ensure_ascii=False, indent=0) + "\n")
