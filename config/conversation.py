"""A conversation about a clip, as rows of a corpus hold it and templates of language models write it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from omnivast.config.tasks import Modality

Role = Literal["user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """What one of the two says, without placeholders and blanks at its ends."""

    role: Role
    text: str


@dataclass(frozen=True)
class Conversation:
    """Questions and answers about one clip, whose media stand once, before the first question."""

    turns: tuple[Turn, ...]
    """user, assistant, user, …; the last is an answer, but in a prompt, whose last is the question to be answered."""
    modalities: frozenset[Modality]
    """Tracks of the clip that are given: vision and audio as media, the subtitle as text; empty: none."""
    system: str | None = None
    type: str | None = None
    """The kind of question, for accuracy by kind."""

    @property
    def answers(self) -> tuple[str, ...]:
        return tuple(turn.text for turn in self.turns if turn.role == "assistant")

    @property
    def has_media(self) -> bool:
        """Whether tokens of a tower stand in it."""
        return bool(self.modalities & {Modality.VISION, Modality.AUDIO})

    def asking(self, answers: int = 0) -> Conversation:
        """The conversation up to the question behind so many answers: the prompt for the next answer. Raises ValueError without one."""
        length = 2 * answers + 1
        if length > len(self.turns):
            raise ValueError(f"the conversation has {len(self.turns) // 2} answer(s), so none after {answers}")
        return Conversation(self.turns[:length], self.modalities, self.system, self.type)


DESCRIBE = {"v": "Describe what is seen.", "a": "Describe what is heard.", "va": "Describe what is seen and heard."}
"""What is asked for a caption, by the tracks that are given as media."""


def asking(question: str, modalities: Iterable[Modality]) -> Conversation:
    """A conversation that has one question yet."""
    return Conversation((Turn("user", question),), frozenset(modalities))


def captioning(modalities: Iterable[Modality], caption: str | None = None) -> Conversation:
    """The conversation in which a caption is asked for and, where there is one, given."""
    given = frozenset(modalities)
    question = DESCRIBE.get("".join(m.value for m in (Modality.VISION, Modality.AUDIO) if m in given), "Describe the clip.")
    answer = () if caption is None else (Turn("assistant", caption),)
    return Conversation((Turn("user", question), *answer), given)


def answering(questions: Iterable[str], answers: Iterable[str], modalities: Iterable[Modality]) -> Conversation:
    """The conversation in which each question is asked and answered, one after the other."""
    turns = [turn for question, answer in zip(questions, answers) for turn in (Turn("user", question), Turn("assistant", answer))]
    return Conversation(tuple(turns), frozenset(modalities))
