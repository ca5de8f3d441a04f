"""Texts about other clips than one's own, against which scores are calibrated: a sample of the captions that the model was trained on, and
texts made of them."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence

from omnivast.config.tasks import Group, Modality, Objective, Task
from omnivast.data.annotations.load import load_annotations
from omnivast.data.annotations.rows import AnnotationError
from omnivast.inference.loading import Loaded

MOST = 1000
FEWEST = 20
"""Fewer tell too little."""
PHRASE = 4
"""Words that are put into another text at once, at most."""
SWAPS = 2
"""Phrases of a text that are replaced."""
TRIES = 20
"""Draws for each text that is wanted."""

logger = logging.getLogger("omnivast")


def background_texts(parts: Loaded) -> list[str]:
    """At most ``MOST`` captions, the same for the same model. Empty where none are at hand; why is logged."""
    if parts.background is not None:
        return json.loads(parts.background.read_text(encoding="utf-8"))
    task = Task(((Objective.RETRIEVAL, (Group((Modality.VISION, Modality.AUDIO)),)),))
    texts: dict[str, None] = {}
    for file in parts.facts.get("texts", ()):
        try:
            rows = load_annotations(file, task, training=False, ignore_fields=(), captions_optional=True)
            texts.update(dict.fromkeys(text for row in rows for own in row.captions.values() for text in own))
        except (OSError, AnnotationError) as error:
            logger.warning("%s: captions to compare scores with cannot be read from it: %s", file, error)
    if len(texts) < FEWEST:
        logger.warning("no captions of the training are at hand (%s), so that it cannot be told how sure a result is; give texts about "
                       "other things as background", ", ".join(map(str, parts.facts.get("texts", ()))) or "the run names none")
        return []
    return random.Random(0).sample(sorted(texts), min(MOST, len(texts)))


def recombined(texts: Sequence[str], count: int) -> list[str]:
    """``count`` new texts, the same for the same texts: of each drawn one, ``SWAPS`` phrases are replaced by phrases that stand between the
    same two words, or at the same end, in others. "a dog barks while a train passes" and "a cat sleeps while a bus passes" make "a dog
    barks while a bus passes". None where the texts share too few such places."""
    words = [["", *text.split(), ""] for text in texts]  # "" stands for the ends
    known, phrases = set(texts), _by_place(words)
    rng, found = random.Random(0), dict[str, None]()
    for _ in range(TRIES * count if phrases else 0):
        text = list(rng.choice(words))
        for _ in range(SWAPS):
            places = [place for place in _places(text) if (text[place[0]], text[place[1]]) in phrases]
            if places:
                start, end = rng.choice(places)
                text[start + 1 : end] = rng.choice(phrases[text[start], text[end]])
        if (new := " ".join(text[1:-1])) not in known:
            found[new] = None
        if len(found) == count:
            return list(found)
    return []


def _by_place(texts: Sequence[Sequence[str]]) -> dict[tuple[str, str], list[tuple[str, ...]]]:
    """(word before, word after) → the phrases that stand between them, of places with several."""
    phrases: dict[tuple[str, str], dict[tuple[str, ...], None]] = {}
    for text in texts:
        for start, end in _places(text):
            phrases.setdefault((text[start], text[end]), {})[tuple(text[start + 1 : end])] = None
    return {place: list(own) for place, own in phrases.items() if len(own) > 1}


def _places(text: Sequence[str]) -> list[tuple[int, int]]:
    """The words before and after each phrase, by number; no phrase is the whole text."""
    pairs = [(start, end) for start in range(len(text)) for end in range(start + 2, min(start + PHRASE + 2, len(text)))]
    return [pair for pair in pairs if pair != (0, len(text) - 1)]
