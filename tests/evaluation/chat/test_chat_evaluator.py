"""The test of conversations: which prompts are answered, and what stands in the result."""

from __future__ import annotations

import pytest
import torch

from omnivast.config.conversation import Conversation, Turn
from omnivast.config.tasks import Modality
from omnivast.data.batch import Batch, Chats
from omnivast.evaluation.chat.evaluator import ChatEvaluator, given
from omnivast.evaluation.collect import EVALUATORS, Encoded

BOTH = frozenset({Modality.AUDIO, Modality.VISION})


def _talk(*texts, tracks=BOTH):
    return Conversation(tuple(Turn("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)), frozenset(tracks))


class _Echo:
    """Answers with the last word of the prompt, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def memory(self, features):
        return "memory"

    def reply(self, memory, conversations, clips, *, beam_size, max_length):
        self.asked.append((memory, list(conversations), list(clips), beam_size, max_length))
        return [conversation.turns[-1].text.split()[-1] for conversation in conversations]


def _batch(chats):
    return Batch(corpus="toy", clip_ids=["one", "two"], index=torch.tensor([4, 7]), chats=chats)


def _evaluator(model):
    return ChatEvaluator(model, "tvas", beam_size=2, max_length=9)


def test_every_question_is_asked_behind_the_true_answers_before_it():
    model = _Echo()
    chats = Chats([_talk("say cow", "cow", "say owl", "pig"), _talk("say dog", "dog", tracks=[])], torch.tensor([1, 0]),
                  rows=[{"type": "seen", "other": "x", "video_id": "two"}, {}])
    evaluator = _evaluator(model)
    evaluator.add(_batch(chats), Encoded(model, None))
    memory, prompts, clips, beams, longest = model.asked[0]
    assert (memory, clips, beams, longest) == ("memory", [1, 1, 0], 2, 9)
    assert [[turn.text for turn in prompt.turns] for prompt in prompts] == [["say cow"], ["say cow", "cow", "say owl"], ["say dog"]]
    outcome = evaluator.finish()
    assert outcome.predictions == [
        {"clip_id": "one", "question": "say dog", "answer": "dog", "given": "", "tvas": "dog"},
        {"clip_id": "two", "question": "say cow", "answer": "cow", "given": "va", "type": "seen", "other": "x", "tvas": "cow"},
        {"clip_id": "two", "question": "say owl", "answer": "pig", "given": "va", "type": "seen", "other": "x", "turn": 1, "tvas": "owl"},
    ]
    assert outcome.metrics["tvas"]["accuracy"] == pytest.approx(200 / 3)
    assert outcome.metrics["tvas"]["types"] == {"seen": 50.0}
    assert (outcome.facts["clips"], outcome.facts["texts"]) == (2, 3)


def test_synonyms_of_a_row_are_a_number_of_their_own():
    model = _Echo()
    evaluator = _evaluator(model)
    chats = Chats([_talk("say kitty", "cat")], torch.tensor([0]), rows=[{"synonyms": ["kitty"]}])
    evaluator.add(_batch(chats), Encoded(model, None))
    metrics = evaluator.finish().metrics["tvas"]
    assert (metrics["accuracy"], metrics["accuracy_synonyms"]) == (0.0, 100.0)


def test_results_of_an_earlier_run_count_once():
    model = _Echo()
    first, second = _evaluator(model), _evaluator(model)
    found = first.add(_batch(Chats([_talk("say cow", "cow")], torch.tensor([0]))), Encoded(model, None))
    second.take(found)
    assert second.finish().predictions == first.finish().predictions


def test_a_batch_without_conversations_is_named():
    with pytest.raises(ValueError, match="corpus 'toy': the batch with clip 'one' has no conversations"):
        _evaluator(_Echo()).add(_batch(None), Encoded(_Echo(), None))


def test_no_answer_is_an_error():
    with pytest.raises(ValueError, match="no answer to score"):
        _evaluator(_Echo()).finish()


def test_tracks_are_named_in_their_order():
    assert given(_talk("a", "b", tracks=[Modality.SUBTITLE, Modality.VISION])) == "vs"


def test_chat_has_an_evaluator():
    import omnivast.evaluation.run  # noqa: F401  (brings all in)
    assert EVALUATORS.find("chat").__name__ == "chat_evaluator"
