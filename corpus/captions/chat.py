"""Captions by a model that sees, behind an endpoint like OpenAI's: it is sent pictures of the clip and, where asked for, what is known of
the video."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from omnivast.corpus.captions.frames import jpeg, pictures
from omnivast.corpus.captions.prompts import Knowledge, prompt_hash
from omnivast.corpus.captions.teachers import Teacher
from omnivast.corpus.engine.results import Row
from omnivast.data.media.errors import MediaError
from omnivast.utils.endpoint import BadRequestError, Endpoint, Limits, image_part, text_part
from omnivast.utils.random import stable_seed

LARGEST_SEED = 2**31
REFUSAL = re.compile(r"(?i)^\W*(i'?m sorry|i am sorry|sorry,|i can(?:no|')t|i am unable|i'?m unable|as an ai\b|unable to)")
"""How models begin an answer that is no caption."""


class ChatCaptioner:
    """A model behind an endpoint; clips are asked about several at once, the captions of a clip one after the other."""

    def __init__(self, teacher: Teacher, root: Path) -> None:
        """Asks it something short first. Raises EndpointError."""
        self._teacher, self._root = teacher, root
        self._endpoint = Endpoint(teacher.endpoint or "", teacher.model, limits=Limits(teacher.per_minute, teacher.requests))
        self._endpoint.check()

    def __call__(self, clips: Sequence[Row], there: int) -> Iterator[Row]:
        """A row of each clip behind the first ``there``. Raises EndpointError, after which those before count."""
        # Rows come in order, so that what is asked about after a kill is what was in flight.
        yield from self._endpoint.ask_all(clips[there:], self._row, self._teacher.concurrency)

    def _row(self, clip: Row) -> Row:
        teacher = self._teacher
        try:
            seen = pictures(self._root, clip, teacher.pictures, teacher.seed)
        except MediaError as error:
            return {"id": clip["id"], "failed": error.reason}
        prompt, template = Knowledge(self._root, teacher.inputs).prompt(clip, teacher.pictures == 1)
        content = [*(image_part(jpeg(picture, teacher.side)) for picture in seen), text_part(prompt)]
        captions: list[Row] = []
        problem = ""
        for number in range(teacher.number):
            seed = stable_seed(teacher.seed, "captions", teacher.name, clip["id"], number) % LARGEST_SEED
            try:
                reply = self._endpoint.ask(content, temperature=teacher.temperature, seed=seed, max_tokens=teacher.tokens)
            except BadRequestError as error:
                problem = re.sub(r"\d+", "N", error.reason)
                continue
            text = " ".join(reply.text.split()).strip('"“” ')
            problem = problem_of(text, reply.finish) or problem
            if not problem_of(text, reply.finish):
                captions.append({"kind": "vision", "text": text, "by": teacher.name, "model": reply.model, "prompt": prompt_hash(template),
                                 "seed": seed, "score": None})
        return {"id": clip["id"], "captions": captions} if captions else {"id": clip["id"], "failed": problem}


def problem_of(text: str, finish: str) -> str | None:
    """Why a reply is no caption; None for one that is."""
    if finish == "content_filter":
        return "the endpoint filtered it"
    if not text:
        return "an empty reply"
    if REFUSAL.match(text):
        return "the model refused"
    return "cut off at the most tokens" if finish == "length" else None
