"""A model that converses, behind a server: the routes, and what is served where nothing can be searched."""

from __future__ import annotations

import shutil

import pytest

from omnivast.inference.pipeline import load
from omnivast.inference.results import as_json
from omnivast.inference.service.run import open_library
from tests.inference.service.conftest import serving, until
from tests.inference.service.test_routes import refused, results

QUESTIONS = ["What is it?", "Is there a cat?"]


@pytest.fixture(scope="module")
def talker(talking):
    return load(talking)


@pytest.fixture(scope="module")
def chatting(media, talker, tmp_path_factory):
    from omnivast.inference.service.app import Service

    folder = tmp_path_factory.mktemp("chatting") / "clips"
    shutil.copytree(media, folder)
    library = open_library(folder, talker, uploads=True)
    library.update()
    until(lambda: library.state != "indexing")
    with serving(Service(library)) as one:
        yield one


def test_each_question_is_sent_with_what_was_said_before(chatting, talker, media):
    wanted = [as_json(one) for one in talker.chat(media / "said.mp4", QUESTIONS)]
    for one in wanted:
        one["name"] = "said.mp4"
    first = results(chatting.client.post("/api/chat", json={"clip": "said.mp4", "question": QUESTIONS[0]}))
    assert first == wanted[:1]
    asked = {"clip": "said.mp4", "question": QUESTIONS, "answer": [first[0]["text"]]}
    assert results(chatting.client.post("/api/chat", json=asked)) == wanted[1:]


def test_a_form_with_a_file(chatting, talker, media):
    fields = {"question": QUESTIONS, "answer": ["a cat"]}
    found = results(chatting.client.post("/api/chat", data=fields, files={"clip": ("my.mp4", (media / "silent.mp4").read_bytes())}))
    wanted = talker.chat(media / "silent.mp4", so_far=[(QUESTIONS[0], "a cat")]).ask(QUESTIONS[1])
    assert found == [{**as_json(wanted), "name": "my.mp4"}] and found[0]["missing"] == ["audio", "subtitle"]


def test_what_is_refused_names_the_field(chatting, served):
    def post(**fields):
        return chatting.client.post("/api/chat", json={"clip": "said.mp4", **fields})

    assert "expected an answer to each question but the last" in refused(post(question=QUESTIONS), 422, "answer")
    refused(post(question=[" "]), 422, "question")
    refused(post(question=[]), 422, "question")
    refused(post(question="what?", group="av-"), 422, "group")
    assert "no room for an answer" in refused(post(question=["What is it?"] * 60, answer=["a cat"] * 59), 422, None)
    assert "not trained to compare clips and texts" in refused(chatting.client.post("/api/search", json={"text": ["a dog"]}), 422, None)
    told = refused(served.client.post("/api/chat", json={"clip": "said.mp4", "question": "what?"}), 422, None)
    assert "not trained to converse" in told


def test_without_an_index_the_files_are_there(chatting):
    told = chatting.client.get("/api/index").json()
    assert told["verbs"] == ["caption", "answer", "chat"] and told["state"] == "ready" and told["moments"] == 0
    assert told["files"] >= 5 and told["error"] is None
    assert results(chatting.client.post("/api/caption", json={"clip": "sound.wav"}))[0]["group"] == "a"
    assert chatting.client.get("/media/picture.png").status_code == 200
    refused(chatting.client.post("/api/caption", json={"clip": "../run"}), 404, "clip")
