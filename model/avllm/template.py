"""Conversations → token ids with the mask of what is learnt: the answers and the end of each.

A chat template says how turns become one string. It is rendered once for each shape of conversation, with marks in place of the texts;
what lies between the marks are the template's own words. Each piece is tokenised by itself, so the mask follows from which piece a token
is of, and never from comparing lengths. What the ids decode to is compared with the string that the template gives for the whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from omnivast.model.avllm.tokens import PieceTokenizer
from omnivast.model.interface import ModelError

if TYPE_CHECKING:
    from omnivast.data.conversation import Conversation

MEDIA = -200
"""Stands once in the ids where the tokens of the media go; no vocabulary has it."""
Style = Literal["auto", "vicuna_v1", "plain"]
VICUNA_V1 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}{% else %}"
    "{{ 'A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user\\'s questions. ' }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""Version 1.1 of Vicuna's prompt, for tokenizers that come without a template of their own."""
PROBE = ("one", "two", "three", "four")
"""Texts with which a template is tried."""
_MARK = re.compile("\ue000([0-9]+)\ue001")


class TemplateError(ModelError):
    """A chat template that cannot be used, or a conversation that cannot be written with it; the message says which, and why."""


@dataclass
class Encoded:
    """A conversation as ids and, for each, whether it is learnt. ``MEDIA`` stands among the ids where the media go, if there are any."""

    ids: list[int]
    supervised: list[bool]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Piece:
    """A part of the string: the template's own words, or ``text`` of a turn."""

    text: str
    spoken: bool = False
    """Whether a row says it: special tokens in it are plain letters."""
    supervised: bool = False
    media_before: bool = False


class ChatTemplate:
    """A tokenizer's way to write conversations. Can be pickled: each data worker has a copy.

    Args:
        tokenizer: of transformers.
        style: ``auto``: its own chat template; ``vicuna_v1``; ``plain``: the answer alone behind the media.

    Raises:
        TemplateError: there is no template, or it lacks what training needs: a generation prompt, and an end of answers.
    """

    def __init__(self, tokenizer: Any, style: Style = "auto") -> None:
        self.tokenizer, self.style = tokenizer, style
        self.pieces = PieceTokenizer(tokenizer)
        self._literals: dict[tuple[bool, int], list[str]] = {}
        self._answers: tuple[str, str] = ("", "")
        """What the template writes between the generation prompt and an answer (a blank, or nothing), and what ends an answer."""
        if style != "plain" and style == "auto" and not tokenizer.chat_template:
            raise TemplateError(f"{self._whose}: the tokenizer has no chat_template; set model_cfg.llm_template to vicuna_v1 (for LLMs of "
                                "that family) or plain")
        if tokenizer.eos_token is None:
            raise TemplateError(f"{self._whose}: the tokenizer has no eos_token, by which an answer ends")
        if style != "plain":
            self._system = self._takes_system()
            self._answers = self._around_answers()
        for texts in (PROBE[:1], PROBE[:2], *([] if style == "plain" else [PROBE])):
            self.encode_texts(texts, None, False)

    @property
    def end(self) -> int:
        """The id that ends an answer: generation stops there."""
        return self.pieces.ids(self._answers[1] or self.tokenizer.eos_token)[-1]

    def encode(self, conversation: Conversation, subtitle: str | None = None, where: str = "") -> Encoded:
        """Ids and mask of a conversation.

        Args:
            subtitle: stands as text before the first question.
            where: the row, for messages.

        Raises:
            TemplateError: there is no answer to learn, or what the ids decode to is not what the template writes.
        """
        texts = [turn.text for turn in conversation.turns]
        try:
            encoded = self.encode_texts(texts, conversation.system, conversation.has_media, subtitle)
        except TemplateError as error:
            raise TemplateError(f"{where}: {error}" if where else str(error)) from None
        if not any(encoded.supervised):
            raise TemplateError(f"{where + ': ' if where else ''}nothing to learn: the conversation has no answer; expected the "
                                "assistant's text last")
        return encoded

    def prompt(self, conversation: Conversation, subtitle: str | None = None, where: str = "") -> list[int]:
        """Ids up to where the next answer begins, of a conversation that ends with a question. Raises TemplateError."""
        if len(conversation.turns) % 2 == 0:
            raise TemplateError(f"{where + ': ' if where else ''}a prompt ends with a question, but this conversation ends with an answer")
        texts = [turn.text for turn in conversation.turns]
        return self.encode_texts(texts, conversation.system, conversation.has_media, subtitle).ids

    def encode_texts(self, texts: Sequence[str], system: str | None, media: bool, subtitle: str | None = None) -> Encoded:
        """Ids and mask of texts in turns, the user's first; a prompt where their number is odd. Raises TemplateError."""
        if self.style == "plain":
            pieces = self._plain(texts, media, subtitle)
            whole = "".join(piece.text for piece in pieces)
        else:
            texts = [f"Subtitle: {subtitle}\n{texts[0]}" if subtitle else texts[0], *texts[1:]]
            if system and not self._system:
                texts, system = [f"{system}\n\n{texts[0]}", *texts[1:]], None
            pieces = list(self._pieces(texts, system, media))
            whole = self._render(self._messages(texts, system), prompt=len(texts) % 2 == 1)
        encoded = Encoded([], [])
        for piece in pieces:
            if piece.media_before:
                encoded.ids.append(MEDIA)
                encoded.supervised.append(False)
            ids = self.pieces.ids(piece.text, spoken=piece.spoken, first=self.pieces.begins(encoded.ids, MEDIA))
            encoded.ids += ids
            encoded.supervised += [piece.supervised] * len(ids)
        self._compare(encoded.ids, whole)
        return encoded

    # --------------------------------------------------------------------------------------------------------------- pieces

    def _pieces(self, texts: Sequence[str], system: str | None, media: bool) -> Iterator[Piece]:
        """The parts of the string, in order. A blank at the end of the template's words goes to the text behind it, as tokenizers have
        it: ``USER:`` and `` What``. Before an answer only what the generation prompt lacks does: what comes before is that prompt."""
        literals = self._between(system is not None, len(texts))
        spoken = [*([system] if system is not None else []), *texts]
        first_question = 1 if system is not None else 0
        gap, end = self._answers
        for number, literal in enumerate(literals):
            is_answer = number > first_question and (number - first_question) % 2 == 0  # an answer stands before this literal
            if is_answer:
                yield Piece(end, supervised=True)
                literal = literal.removeprefix(end)
            last = number == len(spoken)
            answer_next = not last and number > first_question and (number - first_question) % 2 == 1
            blank = "" if last else gap if answer_next else " " if literal.endswith(" ") else ""
            own = literal.removesuffix(blank)
            if own:
                yield Piece(own)
            if not last:
                yield Piece(blank + spoken[number], spoken=True, supervised=answer_next, media_before=media and number == first_question)

    def _plain(self, texts: Sequence[str], media: bool, subtitle: str | None) -> list[Piece]:
        """The answer behind the media: the question is left out, as in LLaVA's first stage."""
        if len(texts) > 2:
            raise TemplateError(f"model_cfg.llm_template plain writes one answer behind the media, without its question, but the "
                                f"conversation has {len(texts)} turns; choose auto or vicuna_v1")
        start = self.pieces.start
        answer = texts[1] if len(texts) == 2 else None
        pieces = [Piece(start)] if start else []
        media_pieces = [Piece(f"Subtitle: {subtitle}\n" if subtitle else "", spoken=True, media_before=media)]
        learnt = [] if answer is None else [Piece(answer, spoken=True, supervised=True), Piece(self.tokenizer.eos_token, supervised=True)]
        return [*pieces, *media_pieces, *learnt]

    def _between(self, system: bool, turns: int) -> list[str]:
        """The template's own words before the first text, between texts, and after the last, for so many turns."""
        key = (system, turns)
        if key not in self._literals:
            marks = [f"\ue000{number}\ue001" for number in range(turns + system)]
            string = self._render(self._messages(marks[system:], marks[0] if system else None), prompt=turns % 2 == 1)
            found = [int(number) for number in _MARK.findall(string)]
            if found != list(range(turns + system)):
                raise TemplateError(f"{self._whose}: its chat template does not write each text once, in order: of {turns} turns it wrote "
                                    f"numbers {found}")
            self._literals[key] = _MARK.split(string)[::2]
        return self._literals[key]

    @staticmethod
    def _messages(texts: Sequence[str], system: str | None) -> list[dict[str, str]]:
        before = [] if system is None else [{"role": "system", "content": system}]
        return before + [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(texts)]

    def _render(self, messages: list[dict[str, str]], prompt: bool) -> str:
        """The string that the template gives. Models that can think aloud are asked not to, and the day's date, which Llama 3's templates
        write, is always the same: else a resumed training would not be the one that it continues."""
        template = None
        if self.style == "vicuna_v1":
            template = VICUNA_V1 if self.pieces.start else VICUNA_V1.removeprefix("{{ bos_token }}")
        try:
            return self.tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=prompt,
                                                      enable_thinking=False, date_string="26 Jul 2024")
        except Exception as error:  # a template is a program, and raises what it likes
            raise TemplateError(f"{self._whose}: its chat template fails: {type(error).__name__}: {error}") from None

    # ---------------------------------------------------------------------------------------------------- trying the template

    def _takes_system(self) -> bool:
        """Whether the template writes what the system says; else it is put before the first question."""
        try:
            string = self._render(self._messages(["\ue0001\ue001", "\ue0002\ue001"], "\ue0000\ue001"), prompt=False)
        except TemplateError:
            return False
        return _MARK.findall(string) == ["0", "1", "2"]

    def _around_answers(self) -> tuple[str, str]:
        """What stands between the generation prompt and an answer, and what ends an answer. Raises TemplateError."""
        prompt = "…".join(self._between(False, 1))
        first, second, tail = self._between(False, 2)
        answered = f"{first}…{second}"
        if not answered.startswith(prompt) or answered[len(prompt) :].strip():
            raise TemplateError(f"{self._whose}: its chat template has no generation prompt: behind a question it writes "
                                f"{_shown(prompt)}, but answers stand behind {_shown(answered)}; expected "
                                "{% if add_generation_prompt %} with the words that begin an answer")
        end = self.pieces.through_special(tail)
        if end is None:
            raise TemplateError(f"{self._whose}: its chat template has no end of an answer: behind one it writes {_shown(tail)}; "
                                f"expected a special token, such as {self.tokenizer.eos_token}, at which generation stops")
        if not self._between(False, 3)[2].startswith(end):
            raise TemplateError(f"{self._whose}: its chat template ends the last answer with {_shown(end)}, but others otherwise")
        return answered[len(prompt) :], end

    def _compare(self, ids: Sequence[int], whole: str) -> None:
        """Raise TemplateError where the ids do not decode to the string. What a tokenizer cannot write at all is let through."""
        kept = [number for number in ids if number != MEDIA]
        decoded = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if self._comparable(decoded) == self._comparable(whole) or self.pieces.unknown in kept:
            return
        raise TemplateError(f"{self._whose}: the ids do not decode to what the chat template writes: {_shown(decoded)} instead of "
                            f"{_shown(whole)}")

    def _comparable(self, text: str) -> str:
        """Without differences that a tokenizer makes on purpose: normal forms of Unicode, and SentencePiece's mark of a blank and its
        blank before the first word."""
        text = unicodedata.normalize("NFKC", text.replace("▁", " "))
        if self.pieces.prefixes and self.tokenizer.bos_token:
            text = text.replace(f"{self.tokenizer.bos_token} ", self.tokenizer.bos_token)
        return text.lstrip(" ") if self.pieces.prefixes else text

    @property
    def _whose(self) -> str:
        name = getattr(self.tokenizer, "name_or_path", "") or type(self.tokenizer).__name__
        return f"model_cfg.llm {name}" if self.style == "auto" else f"model_cfg.llm {name} (llm_template {self.style})"


def _shown(text: str) -> str:
    """A string for messages, its end where it is long."""
    return repr(text if len(text) <= 160 else f"…{text[-160:]}")
