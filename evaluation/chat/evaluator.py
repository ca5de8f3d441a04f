"""Conversations: each question of each conversation is answered, with the true answers to the questions before it standing in between,
and scored by exact match as questions are (evaluation/questions), also per type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omnivast.config.conversation import Conversation
from omnivast.config.tasks import Modality, Objective
from omnivast.data.batch import Batch
from omnivast.evaluation.collect import EVALUATORS, Encoded, Entries, Outcome
from omnivast.evaluation.metrics import bootstrap
from omnivast.evaluation.questions.evaluator import answer_metrics
from omnivast.evaluation.questions.marking import Marking
from omnivast.model.interface import Model
from omnivast.utils import distributed

if TYPE_CHECKING:
    from omnivast.config.schema import Config
    from omnivast.data.loader import EvalLoader
    from omnivast.evaluation.journal import Journal

KEPT = ("type", "synonyms", "other")
"""Fields of a row that stand beside its answers in the result."""


class ChatEvaluator(Entries):
    """Answers batch by batch (:meth:`add`), then scores (:meth:`finish`).

    Args:
        model: answers.
        group: the tracks of the dataset's task, by which the metrics are named; each row says itself which it gives.
        beam_size: beams; 1: greedy.
        max_length: tokens of an answer at most.
        marking: how answers are marked beside exact match.
    """

    def __init__(self, model: Model, group: str, *, beam_size: int, max_length: int, marking: Marking | None = None) -> None:
        super().__init__()
        self.marking = marking or Marking()
        self.model, self.group, self.beam_size, self.max_length = model, group, beam_size, max_length

    def add(self, batch: Batch, encoded: Encoded) -> list[tuple[int, dict[str, Any]]]:
        """One batch. Returns what was found, for :meth:`take`. Raises ValueError when it has no conversations."""
        chats = batch.chats
        if chats is None:
            raise ValueError(f"corpus '{batch.corpus}': the batch with clip '{batch.clip_ids[0]}' has no conversations")
        index, clips = batch.index.tolist(), chats.clip.tolist()
        asked: list[tuple[int, Conversation]] = []
        numbered: list[tuple[int, dict[str, Any]]] = []
        for place, (conversation, clip) in enumerate(zip(chats.conversations, clips)):
            row = chats.rows[place] if chats.rows else {}
            kept = {key: row[key] for key in KEPT if key in row}
            for turn, answer in enumerate(conversation.answers):
                asked.append((clip, conversation.asking(turn)))
                entry = {"clip_id": batch.clip_ids[clip], "question": conversation.turns[2 * turn].text, "answer": answer,
                         "given": given(conversation), **kept}
                numbered.append((index[clip], {**entry, "turn": turn} if turn else entry))
        found = self.model.reply(encoded.memory, [prompt for _, prompt in asked], [clip for clip, _ in asked],
                                 beam_size=self.beam_size, max_length=self.max_length)
        for (_, entry), text in zip(numbered, found):
            entry[self.group] = text
        self._entries.extend(numbered)
        return numbered

    def finish(self) -> Outcome:
        """Metrics of all processes' answers under the group's name, see ``answer_metrics``. Called on every process."""
        predictions = self.predictions()
        metrics, intervals = distributed.computed_once(lambda: answer_metrics(predictions, [self.group], self.marking.synonyms))
        facts = {
            "clips": len({entry["clip_id"] for entry in predictions}),
            "texts": len(predictions),
            "beam_size": self.beam_size,
            "max_answer_tokens": self.max_length,
            "answers": "exact match after stripping blanks at the ends and lowering letters; accuracy_normalised: after VQAv2's "
                       "normalisation; later questions of a conversation stand behind the true answers to the earlier ones"
                       + self.marking.words,
            "intervals": bootstrap.WORDS,
            **self.marking.judged(predictions, [self.group]),
        }
        return Outcome(metrics, predictions, facts, intervals)


def given(conversation: Conversation) -> str:
    """The tracks that a conversation gives, in their order: ``"va"``; "" for none."""
    return "".join(modality.value for modality in Modality if modality in conversation.modalities)


@EVALUATORS.register(Objective.CHAT.value)
def chat_evaluator(model: Model, loader: EvalLoader, config: Config, journal: Journal) -> ChatEvaluator:
    """The conversations of a dataset."""
    return ChatEvaluator(model, str(loader.task.groups(Objective.CHAT)[0]), beam_size=config.run_cfg.beam_size_qa or
                         config.run_cfg.beam_size, max_length=config.model_cfg.max_answer_len,
                         marking=Marking.of(config.run_cfg, loader.name))
