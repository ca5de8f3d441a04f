"""Rows of conversations: every form gives the same turns, and whatever is wrong is one sentence that names the row."""

from __future__ import annotations

import re

import pytest

from omnivast.config.conversation import Turn
from omnivast.config.tasks import Modality
from omnivast.data.annotations.rows import AnnotationError
from omnivast.data.conversation import read_conversation

WHERE = "chat.json: row 3 (id 'x')"
V, A, S = Modality.VISION, Modality.AUDIO, Modality.SUBTITLE
ASKED = {"question": "What is it?", "answer": "A dog."}


def read(row, group=()):
    return read_conversation(row, WHERE, group)


def said(*texts):
    return tuple(Turn("assistant" if number % 2 else "user", text) for number, text in enumerate(texts))


@pytest.mark.parametrize("row", [
    {"messages": [{"role": "user", "content": "<AUD_VIS> What is it? "}, {"role": "assistant", "content": " A dog."}], "video_id": "x"},
    {"conversations": [{"from": "human", "value": "<video>\n<audio>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}], "id": 7,
     "video": "x.mp4", "audio": "x.wav"},
    {"conversations": [{"from": "human", "value": "What is it?\n<AUD_VIS>"}, {"from": "gpt", "value": "A dog."}], "video": "x.mp4"},
    {**ASKED, "video_id": "x", "modality": "av"},
    {"question": ["What is it?"], "answer": ["A dog."], "videos": ["x.mp4"], "audios": ["x.wav"]},
], ids=["messages", "LLaVA", "placeholder last", "question", "lists"])
def test_every_form_is_the_same_conversation(row):
    conversation = read(row)
    assert conversation.turns == said("What is it?", "A dog.") and conversation.modalities == {V, A}
    assert conversation.system is None and conversation.type is None


def test_several_turns_a_system_and_a_type():
    turns = [("system", "Be brief. "), ("human", "<image>\nOne?"), ("gpt", "1"), ("human", "Two?"), ("gpt", "2")]
    row = {"conversations": [{"from": role, "value": text} for role, text in turns], "image": "x.jpg", "type": "count"}
    conversation = read(row)
    assert (conversation.system, conversation.type) == ("Be brief.", "count")
    assert conversation.turns == said("One?", "1", "Two?", "2") and conversation.answers == ("1", "2")
    assert read({"question": ["One?", "Two?"], "answer": [1, 2.5], "video_id": "x", "system": "Be kind."}).turns == said(
        "One?", "1", "Two?", "2.5")


@pytest.mark.parametrize("row, group, tracks", [
    ({"video_id": "x"}, [V, A], {V, A}),
    ({"video_id": "x", "subtitle": "seven"}, [A, S], {A, S}),
    ({"video_id": "x", "subtitle": " "}, [A, S], {A}),
    ({"video_id": "x", "subtitle": "seven", "modality": "v"}, [A, S], {V}),
    ({"video_id": "x", "subtitle": "seven", "modality": "s"}, [V], {S}),
    ({"video_id": "x", "modality": ""}, [V], set()),
    ({"audio": "x.wav"}, [V], {A}),
    ({"videos": ["x.mp4"]}, [A], {V}),
    ({"id": "x"}, [V], {V}),
    ({}, [V], set()),
], ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_the_tracks_of_a_row_are_its_own_or_those_of_the_task(row, group, tracks):
    assert read({**ASKED, **row}, group).modalities == tracks


def test_of_llava_a_row_without_media_is_text_alone():
    assert read(llava(("human", "One?"), ("gpt", "1"), id=7), [V]).modalities == set()


def messages(*turns):
    return {"messages": [{"role": role, "content": text} for role, text in turns], "video_id": "x"}


def llava(*turns, **more):
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **more}


USER, ANSWER = ("user", "One?"), ("assistant", "1")


@pytest.mark.parametrize("row, message", [
    (messages(("usr", "One?"), ANSWER), "turn 0 of 'messages': unknown role 'usr'; valid are system, user, assistant. Did you mean "
                                        "'user'?"),
    (llava(("humn", "One?"), ("gpt", "1")), "unknown role 'humn'; valid are system, human, gpt. Did you mean 'human'?"),
    (messages(USER, ANSWER, USER), "an odd number of turns (3): the last question has no answer"),
    (messages(ANSWER, USER), "turn 0 of 'messages' is the assistant's; expected the user's: they take turns, the user first"),
    (llava(("gpt", "1"), ("human", "One?")), "turn 0 of 'conversations' is the gpt's; expected the human's: they take turns, the human "
                                             "first"),
    (messages(USER, USER), "turn 1 of 'messages' is the user's; expected the assistant's"),
    (messages(USER, ANSWER, ("system", "Be kind."), ANSWER), "turn 2 of 'messages' is the system's; expected the user's"),
    (messages(("system", "Be kind.")), "'messages' has no turn but the system's"),
    (messages(USER, ("assistant", " ")), "turn 1 (assistant) is empty"),
    (messages(("user", "<VIS>\n"), ANSWER), "turn 0 (user) is empty"),
    (messages(("user", 3), ANSWER), "turn 0 of 'messages': 'content' must be a string, found a number"),
    ({"messages": []}, "'messages' must be a list of turns, found an empty list"),
    ({"messages": "One?"}, "'messages' must be a list of turns, found a string"),
    ({"messages": [{"role": "user", "value": "One?"}]}, "expected an object with 'role' and 'content', found an object with 'role', "
                                                        "'value'"),
    ({"messages": ["One?"]}, "expected an object with 'role' and 'content', found a string"),
    ({**messages(USER, ANSWER), "question": "One?"}, "has both 'messages' and 'question'; expected one of messages, conversations, "
                                                     "question"),
    ({"video_id": "x"}, "has no conversation; expected one of messages, conversations, question"),
    ({"question": ["One?", "Two?"], "answer": "1"}, "2 question(s) but 1 answer(s)"),
    ({"question": "One?"}, "1 question(s) but 0 answer(s)"),
    ({"question": "One?", "answer": None}, "1 question(s) but 0 answer(s)"),
    ({"question": "One?", "answer": True}, "'answer' must be a string or a list of strings, found true/false"),
    ({**ASKED, "modalities": "v"}, "unknown field 'modalities'. Did you mean 'modality'? To leave it unread"),
    ({**ASKED, "synonyms": "dog"}, "'synonyms' must be a list of strings, answers that are as right, found a string"),
    ({**ASKED, "type": 3}, "'type' must be a string, found a number"),
    ({**ASKED, "system": ["Be kind."]}, "'system' must be a string, found a list"),
    ({**messages(("system", "Be kind."), USER, ANSWER), "system": "Be brief."}, "two texts of the system, in 'system' and in 'messages'"),
    (messages(("user", "One?"), ("assistant", "1 <VIS> 2")), "<VIS> within turn 1 (assistant); expected placeholders at the beginning"),
    (messages(("user", "One <audio> two?"), ANSWER), "<audio> within turn 0 (user)"),
    (messages(USER, ANSWER, ("user", "<VIS>\nTwo?"), ANSWER), "<VIS> within turn 2 (user)"),
    (messages(("user", "<video><AUD_VIS>One?"), ANSWER), "<AUD_VIS> asks for media that a placeholder before it asks for"),
    (messages(("user", "<vidoe>\nOne?"), ANSWER), "unknown placeholder <vidoe>; valid are <VIS>, <AUD>, <AUD_VIS>, <video>, <image>, "
                                                  "<audio>. "
                                                  "Did you mean 'video'?"),
    (llava(("human", "<audio>\nOne?"), ("gpt", "1"), image="x.jpg"), "a placeholder without media: the text asks for audio (as <AUD> "
                                                                     "does), "
                                                                     "but the row has only image"),
    (llava(("human", "<video>\nOne?"), ("gpt", "1"), id="x"), "a placeholder without media: the text asks for vision (as <VIS> does), "
                                                              "but the "
                                                              "row names no media; expected one of videos, images"),
    (llava(("human", "One?"), ("gpt", "1"), video="x.mp4"), "media without a placeholder: the row has 'video'"),
    ({**ASKED, "modality": "vx"}, "'modality' 'vx' is not understood; expected letters of v (vision), a (audio) and s (subtitle)"),
    ({**ASKED, "modality": ["v"]}, "'modality' ['v'] is not understood"),
    ({**messages(("user", "<AUD> One?"), ANSWER), "modality": "v"}, "'modality' is 'v', but the placeholder asks for 'a'"),
], ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_a_bad_row_is_one_sentence(row, message):
    with pytest.raises(AnnotationError, match=rf"^{re.escape(WHERE)}.*{re.escape(message)}") as error:
        read(row)
    assert "\n" not in str(error.value)


def test_questions_in_the_middle_are_prompts():
    conversation = read({"question": ["One?", "Two?"], "answer": ["1", "2"], "video_id": "x"})
    assert conversation.asking().turns == said("One?") and conversation.asking(1).turns == said("One?", "1", "Two?")
    with pytest.raises(ValueError, match="has 2 answer"):
        conversation.asking(2)


def test_other_fields_are_left_to_evaluators():
    assert read({**ASKED, "video_id": "x", "question_id": 3, "source": "AVSD"}).turns == said("What is it?", "A dog.")


def test_signs_that_are_no_placeholder_stay():
    assert read({"question": "<b> is what <3 means?", "answer": "a < b", "video_id": "x"}).turns == said("<b> is what <3 means?", "a < b")
