"""A conversation about one clip: what was said so far, and what the model found in the clip, which is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from omnivast.config.conversation import Turn, answering
from omnivast.config.tasks import Group
from omnivast.inference.results import Answer
from omnivast.model.interface import Model


class Chat:
    """Made by :meth:`omnivast.inference.pipeline.Pipeline.chat`.

        chat = model.chat("clip.mp4")
        chat.ask("what is heard?").text

    Args:
        memory: what texts attend to of the clip, one row.
        group: the tracks that are given.
        missing: tracks that the model knows and the clip lacks, in words.
        system: what the language model is told beforehand.
        beams: width of the search.
        tokens: of an answer at most.
        so_far: questions and answers.
    """

    def __init__(self, model: Model, memory: Any, name: str, group: Group, *, missing: tuple[str, ...], system: str | None, beams: int,
                 tokens: int, so_far: Sequence[tuple[str, str]] = ()) -> None:
        self._model, self._memory, self._system, self._beams, self._tokens = model, memory, system, beams, tokens
        self.name, self.group, self.missing = name, group, missing
        self.turns: list[tuple[str, str]] = [(_question(asked), answer) for asked, answer in so_far]
        """Each question with its answer. Cut it to forget what was said."""

    def ask(self, question: str) -> Answer:
        """The answer to the next question, after all that was said.

        Raises ModelError where the conversation has grown longer than what the language model reads, or where its template cannot hold the
        question; what was said before stays."""
        asked = _question(question)
        said = answering([turn[0] for turn in self.turns], [turn[1] for turn in self.turns], self.group)
        prompt = replace(said, turns=(*said.turns, Turn("user", asked)), system=self._system)
        with torch.inference_mode():
            [text] = self._model.reply(self._memory, [prompt], [0], beam_size=self._beams, max_length=self._tokens)
        self.turns.append((asked, text))
        return Answer(self.name, asked, text, self.group.key, self.missing)


def _question(text: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"a question is a text that is not empty; got {text!r}")
    return text.strip()
