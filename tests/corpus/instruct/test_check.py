"""Replies: their form, and whether their answers keep to the captions."""

from __future__ import annotations

import json

import pytest

from omnivast.corpus.instruct.check import Fault, Pair, check_pairs, read_reply
from omnivast.corpus.instruct.templates import EXAMPLES, KINDS, TRACKS, Context, prompt

SEEN = ["a black cat sits on a red chair", "a cat is sitting in a room with 3 babies"]


def reply(*pairs):
    return json.dumps({"turns": [{"question": question, "answer": answer} for question, answer in pairs]})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tracks", TRACKS)
def test_a_prompt_has_four_parts_and_an_example_of_the_form_that_is_asked_for(kind, tracks):
    text = prompt(kind, tracks, Context("c", ("a dog runs",), ("barking is heard",)))
    places = [text.index(f"{part}\n") for part in ("ROLE", "REQUIREMENT", "EXAMPLE", "CONTEXT")]
    assert places == sorted(places) and ("a dog runs" in text, "barking is heard" in text) == ("v" in tracks, "a" in tracks)
    example = text[text.index("EXAMPLE\n"):text.index("CONTEXT\n")]
    assert [(pair.question, pair.answer) for pair in read_reply(example, kind)] == EXAMPLES[kind, tracks]


def test_replies_are_read_in_a_fence_too():
    wanted = [Pair("What is it?", "A cat."), Pair("Where?", "On a chair.")]
    text = reply(("What is  it?", "A cat.\n"), ("Where?", "On a chair."))
    for around in ("%s", "```json\n%s\n```", "Here it is: %s Bye."):
        assert read_reply(around % text, "conversation") == wanted


@pytest.mark.parametrize(("text", "reason"), [
    ("", "no JSON object"), ("no", "no JSON object"), ("}{", "no JSON object"), ('{"turns": [}', "not valid JSON"),
    ('{"turns": [' * 5000 + "}", "not valid JSON"),
    ('{"turn": []}', "not by the schema: an object"), ('{"turns": {}}', "not by the schema: an object"),
    ('{"turns": [], "more": 1}', "not by the schema: an object"),
    ('{"turns": [{"question": "a"}]}', "not by the schema: turns"), ('{"turns": ["a"]}', "not by the schema: turns"),
    ('{"turns": [{"question": "a", "answer": 3}]}', "not by the schema: turns"),
    (reply(("a", "b")), "not 2 to 6 turns"), (reply(*[("a", "b")] * 7), "not 2 to 6 turns"),
])
def test_what_is_no_conversation_is_told(text, reason):
    with pytest.raises(Fault, match=reason):
        read_reply(text, "conversation")


def test_one_question_alone_for_descriptions_and_reasoning():
    for kind in ("description", "reasoning"):
        assert len(read_reply(reply(("a", "b")), kind)) == 1
        with pytest.raises(Fault, match="not one turn"):
            read_reply(reply(("a", "b"), ("c", "d")), kind)


@pytest.mark.parametrize("answer", [
    "A black cat.", "It is sitting on the red chair.", "Cats sit there.", "Yes.", "There are 3 babies in the room.",
    "The baby's chair is red.",
    "The cat, which is black, sits on a chair that is quite red.",
])
def test_answers_from_the_captions_are_used(answer):
    check_pairs([Pair("What is it?", answer)], "conversation", SEEN)


@pytest.mark.parametrize(("answer", "reason"), [
    ("A dog.", "words that no caption has"), ("A white cat.", "words that no caption has"),
    ("A black cat sits on a sofa and sleeps.", "words that no caption has"),
    ("There are 4 babies in the room.", "a number that no caption has"), ("Seven cats sit on a red chair in the room.", "a number"),
    ("The caption tells of a cat.", "speaks of its captions"), ("I'm sorry, a cat.", "refuses"), ("", "empty"), ("cat " * 600, "too long"),
    ("<image> a cat", "placeholder"),
])
def test_answers_that_leave_the_captions_are_not(answer, reason):
    with pytest.raises(Fault, match=reason):
        check_pairs([Pair("What is it?", answer)], "conversation", SEEN)


def test_reasoning_may_say_more_but_not_all_of_it():
    thought = "The cat sits on a chair in a room with babies, so it is tame and feels safe."
    check_pairs([Pair("How is it?", thought)], "reasoning", SEEN)
    with pytest.raises(Fault, match="words that no caption has"):
        check_pairs([Pair("How is it?", thought)], "description", SEEN)
    with pytest.raises(Fault, match="words that no caption has"):
        check_pairs([Pair("How is it?", "Dogs love parks, games, and their owners; they run.")], "reasoning", SEEN)


def test_a_question_twice():
    with pytest.raises(Fault, match="a question twice"):
        check_pairs([Pair("What is it?", "A cat."), Pair("what is it?", "A chair.")], "conversation", SEEN)


@pytest.mark.parametrize(("answer", "known"), [
    ("it was slicing", "she slices bread"), ("babies", "a baby"), ("he was running", "they run"), ("the dogs barked", "a dog is barking"),
    ("dancers", "a dancer"), ("it stopped", "it stops"), ("a glass", "glasses"), ("the man carried it", "men carry, a man carries"),
    ("horses", "a horse"), ("they are clapping", "one claps"),
])
def test_other_forms_of_a_word_are_known(answer, known):
    check_pairs([Pair("What?", answer)], "conversation", [known])
