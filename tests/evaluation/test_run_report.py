import base64
import io
import json
import re
from pathlib import Path

import av
import pytest
import torch

from evaluation import run_report
from evaluation.report import sound_of, sound_uri
from tests.evaluation.quickstart_tree import make_data, make_results


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    make_data(folder / "data")
    make_results(folder / "run", folder / "data")
    return folder


def _result(objective, predictions, group="tv", **protocol):
    own = {"dataset": "x", "objective": objective, "groups": [group], **protocol}
    return run_report.Result(Path("x.json"), own, {group: {"accuracy": 1.0}}, predictions)


def test_a_training_and_tests_make_one_page_and_its_markdown(tree):
    assert run_report.main([*(str(tree / "run" / name) for name in ("pretrain", "test_ret", "test_cap", "test_qa")), "--cases", "1",
                            "--output", str(tree / "page.html")]) == 0
    page, plain = (tree / "page.html").read_text(), (tree / "page.md").read_text()
    for words in ("Losses on toy", "Learning rate", "By group of modalities", "question type", "Best 1", "Worst 1"):
        assert words in page, words
    assert "300 steps logged" in plain and "At step 300, on toy: total loss" in plain and "### Median 1" in plain
    assert not re.search(r"<script|https?://|@import", page)


def test_a_folder_that_is_no_run_is_named(tmp_path, caplog):
    assert run_report.main([str(tmp_path)]) == 2 and f"{tmp_path}: expected an output folder" in caplog.text


def test_published_numbers_stand_beside_ours_with_what_differs(tmp_path):
    settings = {"groups": ["tvas"], "frames": 8, "slices": 1, "resolution": 224, "rerank_depth": 50, "dataset": "msrvtt_ret"}
    content = {"protocol": {**settings, "objective": "ret"}, "metrics": {"tvas": {"itm": {"r1": 60.9, "r5": 84.3, "r10": 90.0}}},
               "predictions": [{"text": "a b", "clip_id": "c", "tvas": {"itm_rank": 1, "itc_rank": 2, "top": ["c"]}}]}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "msrvtt_ret.ret.json").write_text(json.dumps(content))
    assert run_report.main([str(tmp_path)]) == 0
    assert "| msrvtt_ret tvas | R@1 | 60.9 | 63.9 | -3.0 | frames 8, published 16 |" in (tmp_path / "report.md").read_text()


def test_the_last_evaluation_of_a_training_is_taken(tree, tmp_path):
    content = next((tree / "run" / "test_qa" / "results").glob("*.json")).read_text()
    for step in (9, 10):
        (tmp_path / "results" / f"step_{step}").mkdir(parents=True)
        (tmp_path / "results" / f"step_{step}" / "x.qa.json").write_text(content)
    assert [result.path.parent.name for result in run_report.read_run(tmp_path).results] == ["step_10"]


def test_cases_are_ordered_by_rank_score_and_right_answers():
    ranks = [{"clip_id": str(n), "text": "w " * n, "tv": {"itc_rank": 1, "itm_rank": n}} for n in (3, 1, 20)]
    assert run_report.goodness(_result("ret", ranks)) == [-3.0, -1.0, -20.0]
    scored = [{"clip_id": "a", "tv": "x", "references": ["x"], "scores": {"tv": {"cider": value}}} for value in (0.5, 2.0)]
    assert run_report.goodness(_result("cap", scored)) == [0.5, 2.0]
    bare = [{"clip_id": "a", "tv": words, "references": ["a cow"]} for words in ("a cow", "some dog")]
    assert run_report.goodness(_result("cap", bare)) == pytest.approx([1.0, 0.0])


def test_breakdowns_by_type_category_and_length():
    entries = [{"clip_id": clip, "question": "w " * words, "answer": "cow", "tv": said, "type": kind}
               for clip, words, said, kind in (("a", 3, "cow", "x"), ("a", 20, "dog", "y"), ("b", 10, "cow", "y"))]
    assert run_report.breakdown(_result("qa", entries), {"a": "music", "b": "sport"}) == {
        "type": [("x", 1, 100.0), ("y", 2, 50.0)],
        "category": [("music", 2, 50.0), ("sport", 1, 100.0)],
        "length": [("up to 8 words", 1, 100.0), ("9 to 16 words", 1, 100.0), ("17 words or more", 1, 0.0)],
    }


def test_sounds_play():
    tone = 0.5 * torch.sin(torch.arange(16000) * 0.17)
    uri = sound_uri(tone, 16000)
    with av.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as container:
        samples = torch.cat([torch.from_numpy(frame.to_ndarray()).flatten().float() for frame in container.decode(audio=0)])
    assert uri.startswith("data:audio/mpeg") and 15000 < len(samples) < 20000 and 0.3 < samples.abs().max() < 0.8
    assert sound_of(None, 16000) is None and "<path" in sound_of(tone, 16000).waveform
