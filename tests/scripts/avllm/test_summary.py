"""Numbers of the Audio-Visual LLM's report, from results worked out by hand."""

from __future__ import annotations

import json

import pytest

from omnivast.scripts.avllm import summary
from omnivast.scripts.avllm.summary import Inputs, abstentions, commonest, page, summarise, swaps
from tests.scripts.omnistamps.quickstart_tree import make_data, write

PROTOCOL = {"clips": 2, "texts": 9, "hardware": "toy", "versions": {"python": "3"}}


def _entry(clip, kind, answer, said, question="q", **more):
    return {"clip_id": clip, "question": question, "answer": answer, "type": kind, "given": "va", "tvas": said, **more}


def _result(entries, group="tvas"):
    return {"protocol": PROTOCOL, "metrics": {group: {}}, "predictions": entries}


TEST = [
    _entry("test0", "seen", "electric guitar", "Electric guitar"),
    _entry("test0", "seen.motion", "left", "right"),
    _entry("test0", "heard", "cow", "cow"),
    _entry("test0", "said.said", "dog", "dog"),
    _entry("test0", "seen_heard", "electric guitar and cow", "i cannot tell without the sound"),
    _entry("test1", "all", "cow and dog and drum kit", "cow and dog and drum kit"),
    _entry("test1", "seen.yes_no", "yes", "no"),
    _entry("test1", "cannot.heard", "i cannot tell without the sound", "i cannot tell without the words"),
    _entry("test1", "cannot.seen", "i cannot tell without the picture", "owl"),
]
SWAPPED = [_entry("s0", "swap.heard", "cow", "cow", other="dog"), _entry("s0", "swap.seen", "cow", "cow", other="dog"),
           _entry("s1", "swap.heard", "cow", "dog", other="dog"), _entry("s1", "swap.seen", "owl", "owl", other="dog")]


def _inputs(data):
    clips = {clip["clip_id"]: clip for clip in json.loads((data / "clips.json").read_text())}
    says = {"test0": {"seen": "electric guitar", "motion": "up", "background": "red", "heard": "cow"},
            "test1": {"seen": "cow", "motion": "left", "background": "red", "heard": "owl"}}
    training = [{"question": ["q", "q", "q"], "answer": ["cow", "i cannot tell without the sound", "i cannot tell without the sound"]}]
    blind = [{**entry, "tva": "cow"} for entry in TEST]
    return Inputs(_result(TEST), _result(SWAPPED), _result(blind, "tva"), training, {"accuracy": {"seen": 100.0}, "said": says}, clips,
                  {"vision": {"accuracy": 53.0}, "audio": {"accuracy": 100.0}}, {"stage1": 1.5}, {"stage1": [], "stage2": [], "blind": []},
                  summary.ClipFiles(str(data / "clips")))


def test_metrics_by_hand(tmp_path):
    make_data(tmp_path)
    metrics = summarise(_inputs(tmp_path))
    assert metrics["answers"]["seen"] == {"accuracy": 50.0, "majority": 0.0, "probe": 50.0}  # the probe takes left for up
    assert metrics["answers"]["heard"] == {"accuracy": 100.0, "majority": 100.0, "probe": 100.0}
    assert metrics["answers"]["said"] == {"accuracy": 100.0, "majority": 0.0, "probe": 100.0}  # text needs no probe
    assert metrics["answers"]["seen_heard"] == {"accuracy": 0.0, "majority": 0.0, "probe": 100.0}
    assert metrics["answers"]["all"] == {"accuracy": 100.0, "majority": 0.0, "probe": 0.0}  # it takes the dog for an owl
    assert metrics["abstain"] == {"right": 50.0, "false": pytest.approx(100 / 7)}
    assert metrics["swap"] == {"follows": 50.0, "stays": 100.0}
    assert metrics["blind"] == {"seen": 0.0, "heard": 100.0, "said": 0.0, "seen_heard": 0.0, "all": 0.0}
    assert metrics["vast"] == {"seen": 53.0, "heard": 100.0}
    assert metrics["seconds"] == {"stage1": 1.5} and metrics["kinds"]["seen.yes_no"] == 0.0


def test_the_majority_answer_is_never_that_it_cannot_be_told():
    rows = [{"question": ["q", "q"], "answer": ["i cannot tell without the words", "owl"]}] * 3 + [{"question": ["q"], "answer": ["cow"]}]
    assert commonest(rows) == {"q": "owl"}


def test_abstentions_count_by_their_beginning():
    entries = [_entry("a", "cannot.seen", "i cannot tell without the picture", " I cannot tell that")]
    assert abstentions([*entries, _entry("a", "heard", "cow", "cow")], "tvas") == {"right": 100.0, "false": 0.0}


def test_swaps_need_both_kinds():
    assert swaps(SWAPPED, "tvas") == {"follows": 50.0, "stays": 100.0}


def test_the_page_shows_questions_of_clips(tmp_path):
    make_data(tmp_path)
    inputs = _inputs(tmp_path)
    text = page(inputs, summarise(inputs), shown=2).markdown()
    assert "| seen | 50.0 | 50.0 | 0.0 | 0.0 | 53.0 |" in text
    assert "right (true: left) ✗" in text and "q (given: va): cow ✓" in text


def test_a_missing_stage_is_named(tmp_path, capsys):
    make_data(tmp_path)
    assert summary.main(["--folder", str(tmp_path / "run"), "--data", str(tmp_path)]) == 2
    assert "omnistamps.chat.json is absent: run the stages" in capsys.readouterr().err


def test_files_are_written(tmp_path):
    make_data(tmp_path)
    inputs, run = _inputs(tmp_path), tmp_path / "run"
    write(run / "test" / "results" / "omnistamps.chat.json", inputs.test)
    write(run / "test" / "results" / "swapped.chat.json", inputs.swapped)
    write(run / "conversations" / "chat_train.json", inputs.training)
    write(run / "probes.json", inputs.probes)
    write(run / "seconds.json", inputs.seconds)
    assert summary.main(["--folder", str(run), "--data", str(tmp_path), "--quickstart", str(tmp_path / "none")]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert "blind" not in metrics and "vast" not in metrics and metrics["answers"]["heard"]["accuracy"] == 100.0
    assert (run / "report.html").is_file()
