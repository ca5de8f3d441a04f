"""Texts about other clips than one's own, against which scores are calibrated: a sample of the captions that the model was trained on."""

from __future__ import annotations

import json
import logging
import random

from omnivast.config.tasks import Group, Modality, Objective, Task
from omnivast.data.annotations.load import load_annotations
from omnivast.data.annotations.rows import AnnotationError
from omnivast.inference.loading import Loaded

MOST = 1000
FEWEST = 20
"""Fewer tell too little."""

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
