"""A loaded Audio-Visual LLM on one's own clips: conversations, captions, answers, folders to share, the verb."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import torch

from omnivast.config.conversation import Conversation, answering
from omnivast.config.tasks import Modality
from omnivast.inference import cli_chat
from omnivast.inference.loading import LoadError
from omnivast.inference.pipeline import load
from omnivast.model.interface import ModelError
from tests.inference.conftest import run_of_avllm
from tests.model.avllm.tiny import make_llm

QUESTIONS = ["What is it?", "Is there a red square?", "Is there a cat?"]


@pytest.fixture(scope="module")
def model(talking):
    return load(talking)


def test_a_conversation_is_the_models_with_the_clip_encoded_once(model, media, monkeypatch):
    encoded = []
    monkeypatch.setattr(model.model, "encode", lambda *given, encode=model.model.encode: encoded.append(encode(*given)) or encoded[-1])
    chat = model.chat(media / "said.mp4")
    found = [chat.ask(question) for question in QUESTIONS]
    assert len(encoded) == 1 and chat.group.key == found[0].group == "vas" and chat.missing == ()
    for number, answer in enumerate(found):
        before = answering(QUESTIONS[:number], [one.text for one in found], Modality)
        asked = answering(QUESTIONS[: number + 1], [*(one.text for one in found[:number]), ""], Modality)
        assert asked.turns[:-2] == before.turns
        prompt = Conversation(asked.turns[:-1], asked.modalities)
        with torch.no_grad():
            assert [answer.text] == model.model.reply(encoded[0], [prompt], [0], beam_size=2, max_length=8)
    assert chat.turns == [(one.question, one.text) for one in found]


def test_questions_at_once_and_what_was_said_before(model, media):
    found = model.chat(media / "said.mp4", QUESTIONS)
    chat = model.chat(media / "said.mp4", so_far=[(one.question, one.text) for one in found[:2]])
    assert chat.ask(QUESTIONS[2]) == found[2] and model.chat(media / "said.mp4", QUESTIONS[0]) == found[0]
    chat.turns.clear()
    assert chat.ask(QUESTIONS[0]) == found[0]
    one, other = model.chat([media / "said.mp4", media / "silent.mp4"], QUESTIONS)
    assert one == found and other == model.chat(media / "silent.mp4", QUESTIONS)


@pytest.mark.parametrize(("name", "group", "missing"), [
    ("silent.mp4", "v", ("audio", "subtitle")), ("sound.wav", "a", ("vision", "subtitle")), ("picture.png", "v", ("audio", "subtitle"))])
def test_groups_by_what_is_there(model, media, name, group, missing):
    answer = model.chat(media / name, "What is it?")
    assert (answer.group, answer.missing) == (group, missing)


def test_the_subtitle_is_in_the_prompt(model, media, monkeypatch):
    prompts = []
    template = model.model.tokenizer.template
    monkeypatch.setattr(template, "prompt", lambda *given, prompt=template.prompt: prompts.append(given[1]) or prompt(*given))
    assert model.chat({"subtitle": "the car"}, "What is it?").group == "s"
    model.chat(media / "said.mp4", "What is it?", group="va")
    assert prompts == ["the car", None]


def test_captions_and_answers_of_one_that_was_trained_by_conversations(model, media):
    said = model.caption(media / "said.mp4", n=2)
    assert said.group == "vas" and len(said.candidates) == 2 and model.caption(media / "sound.wav").group == "a"
    answer = model.answer(media / "silent.mp4", "What is it?", evidence=True)
    assert answer.text == model.chat(media / "silent.mp4", "What is it?").text and answer.evidence is not None and answer.score < 0


def test_what_it_does_not_do(model, media, run, tmp_path):
    for does in (lambda: model.embed(media / "said.mp4"), lambda: model.score(["a"], [media / "said.mp4"]), lambda: model.embed_texts("a")):
        with pytest.raises(ValueError, match="was not trained for 'ret'; it was for chat"):
            does()
    with pytest.raises(ValueError, match="VAST has no language model to converse with; ask it with answer"):
        load(run).chat(media / "said.mp4")
    with pytest.raises(ValueError, match="a question is a text that is not empty"):
        model.chat(media / "said.mp4", " ")
    chat = model.chat(media / "said.mp4", so_far=[("What is it?", "a cat")] * 60)
    with pytest.raises(ModelError, match="no room for an answer: the language model reads 512"):
        chat.ask("What is it?")
    assert len(chat.turns) == 60


# ----------------------------------------------------------------------------------------------------------------- sharing


@pytest.mark.parametrize("tune", ["projectors", "lora", "full"])
def test_a_shared_folder_says_the_same(media, tmp_path, tune):
    model = load(run_of_avllm(tmp_path / "run", llm_tune=tune))
    folder = model.save_pretrained(tmp_path / "shared")
    wanted = model.chat(media / "said.mp4", QUESTIONS)
    shutil.rmtree(tmp_path / "run")
    shared = load(folder)
    assert shared.chat(media / "said.mp4", QUESTIONS) == wanted
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".md", ".jinja"}
    again = load(shared.save_pretrained(tmp_path / "again"))
    assert again.chat(media / "said.mp4", QUESTIONS) == wanted
    assert "converses about clips by vision + audio + subtitle" in (folder / "README.md").read_text()


def test_a_language_model_that_is_named_and_not_copied(talking, model, media, tmp_path):
    folder = model.save_pretrained(tmp_path / "shared", copy_llm=False)
    assert not (folder / "llm").exists()
    wanted = model.chat(media / "silent.mp4", "What is it?")
    assert load(folder).chat(media / "silent.mp4", "What is it?") == wanted
    config = json.loads((folder / "config.json").read_text())
    config["model_cfg"]["llm"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="gone': no such folder or file"):
        load(folder)
    assert load(folder, llm=talking / "llm").chat(media / "silent.mp4", "What is it?") == wanted
    with pytest.raises(ModelError, match="trained with another language model"):
        load(folder, llm=make_llm(tmp_path / "other", seed=1))


def test_another_family_has_none(run, talking):
    with pytest.raises(LoadError, match="the model has no language model"):
        load(run, llm=talking / "llm")


# ---------------------------------------------------------------------------------------------------------------- the verb


def test_questions_as_arguments(talking, model, media, capsys):
    clip, wanted = str(media / "silent.mp4"), model.chat(media / "silent.mp4", QUESTIONS)
    assert cli_chat.chat([clip, *QUESTIONS, "--model", str(talking), "--json"]) == 0
    assert [one["text"] for one in json.loads(capsys.readouterr().out)["results"]] == [one.text for one in wanted]
    assert cli_chat.chat([clip, *QUESTIONS, "--model", str(talking)]) == 0
    told = capsys.readouterr()
    assert told.out.count("\n") == 6 and wanted[2].text in told.out and "has no audio" in told.err
    assert cli_chat.chat([clip, "--model", str(talking), "--json"]) == 2 and "questions that are given" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_conversation_on_a_terminal(talking, model, media, monkeypatch, capsys):
    clip, wanted = str(media / "silent.mp4"), model.chat(media / "silent.mp4", QUESTIONS[:2])
    for stdin in (Terminal("\n".join([*QUESTIONS[:2], "", "never"])), Terminal("\n".join(QUESTIONS[:2]))):
        monkeypatch.setattr("sys.stdin", stdin)
        assert cli_chat.chat([clip, "--model", str(talking)]) == 0
        assert capsys.readouterr().out.replace("> ", "").startswith("\n".join(one.text or "(no words)" for one in wanted))
    monkeypatch.setattr("sys.stdin", Terminal("What? " * 400 + "\nWhat is it?\n"))
    assert cli_chat.chat([clip, "--model", str(talking)]) == 0
    told = capsys.readouterr()
    assert "no room for an answer" in told.err and (wanted[0].text or "(no words)") in told.out


def test_questions_from_a_pipe(talking, model, media, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(QUESTIONS[:2])))
    assert cli_chat.chat([str(media / "silent.mp4"), "--model", str(talking)]) == 0
    wanted = model.chat(media / "silent.mp4", QUESTIONS[:2])
    assert capsys.readouterr().out == "".join(f"{one.question}\n  {one.text or '(no words)'}\n" for one in wanted)
