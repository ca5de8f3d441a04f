"""What a teacher that reads is asked: after Panda-70M, in our words. What is known of a video besides its pictures comes first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from omnivast.corpus.engine.results import Row

INPUTS = ("subtitle", "title", "description")
"""What a teacher may be given besides pictures."""
LONGEST = 2000
"""Characters of each that are given at most."""
HEAD = "The following is known about a video."
PARTS = {"subtitle": 'In this part of it these words are spoken: "{subtitle}"', "title": "Title: {title}",
         "description": "Description: {description}"}
TASK = {True: "Say in one sentence what this picture from the video shows.",
        False: "These pictures were taken from the video in the order of time. Say in one sentence what happens in the video."}
"""Of one picture; of several."""
RULE = "Keep to what can be seen; use the words above only as far as they agree with it. Answer with the sentence alone."
ALONE = "Keep to what can be seen. Answer with the sentence alone."


def template(given: Collection[str], single: bool) -> str:
    """The prompt with places for what is given, which is some of ``INPUTS``."""
    if not given:
        return f"{TASK[single]} {ALONE}"
    return "\n".join([HEAD, *(PARTS[name] for name in INPUTS if name in given), f"{TASK[single]} {RULE}"])


def prompt_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Knowledge:
    """What is known of clips besides their pictures: their subtitles and, from yt-dlp's ``NAME.info.json`` beside the video, title and
    description. Each file is read once for the clips of a video that follow each other."""

    def __init__(self, root: Path, inputs: Collection[str]) -> None:
        self._root, self._inputs = root, inputs
        self._of, self._info = "", dict[str, str]()

    def prompt(self, clip: Row, single: bool) -> tuple[str, str]:
        """(the prompt, its template). What a clip lacks is left out of both."""
        known = {"subtitle": clip["subtitle"], **self._file(clip["source"])}
        given = {name: short for name in self._inputs if (short := " ".join(known.get(name, "").split())[:LONGEST])}
        text = template(given, single)
        # Filled one by one: a title may hold braces.
        filled = text
        for name in INPUTS:
            if name in given:
                filled = filled.replace("{" + name + "}", given[name], 1)
        return filled, text

    def _file(self, source: str) -> dict[str, str]:
        if self._of != source:
            self._of, self._info = source, info_of(self._root / source) if {"title", "description"} & set(self._inputs) else {}
        return self._info


def info_of(video: Path) -> dict[str, str]:
    """Title and description of ``NAME.info.json`` beside ``NAME.mp4``; nothing where it is not there or holds none."""
    try:
        content: Any = json.loads(video.with_suffix(".info.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return {key: content[key] for key in ("title", "description") if isinstance(content.get(key), str)} if isinstance(content, dict) else {}
