"""A loaded model on one's own clips."""

import json
import shutil

import numpy as np
import pytest
import torch

from omnivast.config.tasks import Group
from omnivast.data.media.errors import MediaError
from omnivast.inference.clips import ClipError
from omnivast.inference.loading import LoadError
from omnivast.inference.pipeline import load
from omnivast.inference.results import as_json

CLIPS = ("said.mp4", "silent.mp4", "picture.png", "sound.wav")


@pytest.fixture
def paths(media):
    return [media / name for name in CLIPS]


def test_a_vector_of_each_group_whose_tracks_are_there(model, paths):
    found = model.embed(paths)
    assert [set(one.vectors) for one in found] == [{"vas", "va", "vs", "v", "a", "s"}, {"v"}, {"v"}, {"a"}]
    assert [one.missing for one in found] == [(), ("audio", "subtitle"), ("audio", "subtitle"), ("vision", "subtitle")]
    for one in found:
        for vector in one.vectors.values():
            assert vector.dtype == np.float32
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_clips_together_give_what_each_gives_alone(model, paths):
    for one, together in zip(map(model.embed, paths), model.embed(paths)):
        assert one.name == together.name
        for key, vector in one.vectors.items():
            np.testing.assert_allclose(vector, together.vectors[key], atol=1e-6)


def test_the_same_clip_however_it_is_given(model, media):
    path = media / "said.mp4"
    wanted = model.embed(path).vectors
    apart = {"video": path.read_bytes(), "audio": path, "subtitle": media / "said.srt"}
    for key, vector in model.embed(apart).vectors.items():
        np.testing.assert_allclose(vector, wanted[key], atol=1e-6)


def test_scores_are_the_models(model, paths):
    texts = ["a red car", "two dogs"]
    scores = model.score(texts, paths[:3])  # v is all that these have in common
    vectors = np.stack([model.embed(path).vectors["v"] for path in paths[:3]])
    np.testing.assert_allclose(scores, model.embed_texts(texts)["vector"].numpy() @ vectors.T, atol=1e-6)
    with pytest.raises(ClipError, match="no clip to score"):
        model.score(texts, [])
    with pytest.raises(ClipError, match="no tracks in common"):
        model.score(texts, paths)
    with pytest.raises(ClipError, match="silent.mp4: has no audio"):
        model.score(texts, paths[:2], group="va")


def test_matching_is_the_heads_probability(model, paths):
    texts = ["a red car", "two dogs running", "a man"]
    found = model.score(texts, paths[:3], by="matching")
    assert found.shape == (3, 3)
    assert ((found > 0) & (found < 1)).all()
    alone = np.array([[model.score(text, [path], group="v", by="matching")[0, 0] for path in paths[:3]] for text in texts])
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_captions_by_what_is_there(model, paths):
    found = model.caption(paths)
    assert [one.group for one in found] == ["va", "v", "v", "a"]
    three = model.caption(paths[0], n=3)
    assert len(three.candidates) == 3
    assert three.text == three.candidates[0]
    assert model.caption(paths[0], n=2, sample=True, seed=1) == model.caption(paths[:2], n=2, sample=True, seed=1)[0]
    assert model.caption(paths[0], group="va").group == "va"


def test_captions_and_answers_say_how_likely_they_are(model, paths):
    three = model.caption(paths[0], n=3)
    assert len(three.scores) == 3 and list(three.scores) == pytest.approx(sorted(three.scores, reverse=True), abs=1e-4)
    drawn = model.caption(paths[0], n=2, sample=True)
    assert len(drawn.scores) == 2 and max(drawn.scores) < 0
    answers = model.answer(paths[:2], ["what is the man doing?", "who is running?"])
    for path, own in zip(paths, answers):
        for one in own:
            assert one.score == pytest.approx(model.answer(path, one.question).score, abs=1e-4)


def test_answers_to_one_and_to_several_questions(model, paths):
    one = model.answer(paths[0], "what is the man doing?")
    both = model.answer(paths[:2], ["what is the man doing?", "who is running?"])
    assert one == both[0][0]
    assert [[answer.question for answer in own] for own in both] == [["what is the man doing?", "who is running?"]] * 2
    assert json.loads(json.dumps(as_json(one)))["question"] == "what is the man doing?"


def test_what_cannot_be_done_is_said(model, media, paths):
    with pytest.raises(ValueError, match="not trained for 'cap' by subtitle; it was by va"):
        model.caption(paths[0], group="s")
    with pytest.raises(ValueError, match="unknown letter"):
        model.caption(paths[0], group="vx")
    with pytest.raises(ClipError, match="sound.wav: has audio, but the model looks at vision"):
        model.answer(paths[3], "what is heard?", group=None) if Group.parse("a") in model.groups("qa") else model.answer(
            paths[3], "what is heard?")
    with pytest.raises(ValueError, match="a question is a text"):
        model.answer(paths[0], " ")
    with pytest.raises((MediaError, ClipError), match="cut.mp4"):
        model.caption(media / "cut.mp4")
    with pytest.raises(ValueError, match="n and beams are at least 1"):
        model.caption(paths[0], n=0)


def test_a_shared_folder_is_the_same_model_anywhere(model, paths, tmp_path, monkeypatch):
    folder = model.save_pretrained(tmp_path / "shared", licence="mit")
    monkeypatch.chdir(tmp_path)
    other = load("shared")
    for one, two in zip(model.embed(paths), other.embed(paths)):
        for key, vector in one.vectors.items():
            np.testing.assert_array_equal(vector, two.vectors[key])
    assert other.caption(paths[0]) == model.caption(paths[0])
    assert other.background() == model.background()
    assert (folder / "README.md").read_text().startswith("---\nlicense: mit\n")
    again = other.save_pretrained(tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_folder_with_something_else_is_not_written_over(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(LoadError, match="is no folder of a shared model"):
        model.save_pretrained(tmp_path)


def test_where_there_is_no_model_it_says_what_was_looked_for(tmp_path, run):
    with pytest.raises(LoadError, match="no model at"):
        load(tmp_path / "nowhere")
    with pytest.raises(LoadError, match="expected the output folder of a training"):
        load(tmp_path)
    assert load(run / "ckpt" / "model_step_7.pt").parts.weights.path.endswith("model_step_7.pt")


def test_from_the_hub_without_a_network(model, tmp_path, monkeypatch):
    """A cache as huggingface_hub leaves it behind."""
    from huggingface_hub import constants

    commit = "0" * 40
    repository = tmp_path / "models--me--tiny"
    model.save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    other = load("hf-hub:me/tiny")
    assert torch.equal(other.embed_texts("a red car")["vector"], model.embed_texts("a red car")["vector"])
    with pytest.raises(LoadError, match="hf-hub:me/other: cannot be fetched"):
        load("hf-hub:me/other")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_texts_among_others_are_embedded_alike(model, count):
    """What a service pads its texts with, so that the model meets few sizes, changes no vector."""
    texts = ["a dog", "a red car in the old street", "", "one onion and a man"][: count] * 2
    texts = texts[:count]
    sizes = []
    inner = model.model.index_texts
    model.model.index_texts = lambda given: sizes.append((len(given.ids), int(given.mask.sum()))) or inner(given)
    try:
        padded = model.embed_texts(texts, few_sizes=True)["vector"]
    finally:
        del model.model.index_texts
    torch.testing.assert_close(padded, model.embed_texts(texts)["vector"], atol=1e-6, rtol=1e-5)
    assert len(padded) == count and sizes[0][0] in (2, 4, 8, 16) and sizes[0][1] % 32 == 0


def test_a_run_is_loaded_from_any_folder(run, tmp_path, monkeypatch):
    """Its config names the tokenizer by a path from where it was trained."""
    project = tmp_path / "project"
    shutil.copytree(run, project / "output" / "run")
    hps = project / "output" / "run" / "log" / "hps.json"
    content = json.loads(hps.read_text())
    shutil.copy(content["model_cfg"]["tokenizer"], project / "words.txt")
    content["model_cfg"]["tokenizer"] = "words.txt"
    hps.write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    assert load("project/output/run").model.tokenizer.path == project / "words.txt"
