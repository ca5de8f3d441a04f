"""A trained model on single clips says what its test said of the whole set; and the verbs, from a training to search results."""

import contextlib
import io
import json

import numpy as np
import pytest

import omnivast
from omnivast.__main__ import main


@pytest.fixture(scope="module")
def model(trained):
    return omnivast.load(trained)


@pytest.fixture(scope="module")
def inputs(clips):
    rows = json.loads((clips.folder / "ret_test.json").read_text())
    return {row["video_id"]: {"video": clips.folder / "clips" / f"{row['video_id']}.mp4", "subtitle": row["subtitle"]} for row in rows}


def predictions(trained, objective):
    return json.loads((trained / "results" / "step_10" / f"omnistamps_{objective}.{objective}.json").read_text())["predictions"]


@pytest.mark.parametrize("group", ["vas", "v", "a"])
def test_ranks_are_those_of_the_test(model, trained, inputs, group):
    found = predictions(trained, "ret")
    scores = model.score([entry["text"] for entry in found], list(inputs.values()), group=group)
    names = list(inputs)
    for entry, own in zip(found, scores):
        assert [names[place] for place in np.argsort(-own, kind="stable")[:5]] == entry[f"t{group}"]["itc_top"]
        assert int((own >= own[names.index(entry["clip_id"])]).sum()) == entry[f"t{group}"]["itc_rank"]


def test_captions_and_answers_are_those_of_the_test(model, trained, inputs):
    wanted = predictions(trained, "cap")
    for group in ("vas", "v"):
        found = model.caption([inputs[entry["clip_id"]] for entry in wanted], group=group)
        assert [one.text for one in found] == [entry[f"t{group}"] for entry in wanted]
    wanted = predictions(trained, "qa")
    found = [model.answer(inputs[entry["clip_id"]], entry["question"]) for entry in wanted[:12]]
    assert [one.text for one in found] == [entry["tvas"] for entry in wanted[:12]]


def told(*arguments):
    """(exit status, standard output) of ``omnivast …``."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = main([str(word) for word in arguments])
    return status, output.getvalue()


def test_the_verbs(trained, clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMNIVAST_MODEL", str(trained))
    one = clips.folder / "clips" / "test00000.mp4"
    assert told("caption", one)[0] == 0
    status, text = told("answer", one, "what is heard?", "what is seen?", "--json")
    assert status == 0
    assert [answer["question"] for answer in json.loads(text)["results"]] == ["what is heard?", "what is seen?"]
    assert told("embed", clips.folder / "clips", "--output", tmp_path / "vectors.npz")[0] == 0
    assert np.load(tmp_path / "vectors.npz")["va"].shape == (60, 64)

    index = tmp_path / "index"
    status, text = told("index", clips.folder / "ret_test.json", "--media", clips.folder / "clips", "--index", index)
    assert (status, text) == (0, f"{index}: 12 moments of 12 files (12 new, 0 changed, 0 removed)\n")
    status, text = told("search", index, "an owl", "--top", "3", "--weights", "heard=1,said=0.5", "--json")
    results = json.loads(text)["results"]
    assert status == 0
    assert len(results) == 3
    assert {"path", "start", "end", "score", "probability", "tracks"} <= results[0].keys()
    assert results[0]["score"] >= results[1]["score"] >= results[2]["score"]
    assert len(told("search", index, "an owl", "--top", "3")[1].splitlines()) == 3

    capsys.readouterr()
    assert told("search", tmp_path, "an owl")[0] == 2
    assert f"make one: omnivast index {tmp_path} --model RUN" in capsys.readouterr().err
    (tmp_path / "cut.mp4").write_bytes(one.read_bytes()[:300])
    assert told("caption", tmp_path / "cut.mp4", one)[0] == 1
    assert "cut.mp4" in capsys.readouterr().err
