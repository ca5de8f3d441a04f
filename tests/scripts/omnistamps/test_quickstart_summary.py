import json
from pathlib import Path

import pytest

from omnivast.scripts.omnistamps import quickstart_summary
from tests.scripts.omnistamps.quickstart_tree import GROUPS, make_data, make_results


@pytest.fixture(scope="module")
def summary():
    return quickstart_summary


@pytest.fixture
def tree(tmp_path):
    make_data(tmp_path / "data")
    make_results(tmp_path / "run", tmp_path / "data")
    return tmp_path


def run(summary, tree):
    return summary.main(["--folder", str(tree / "run"), "--data", str(tree / "data"), "--clips", "3"])


def test_metrics_have_the_keys_that_were_promised(summary, tree, capsys):
    assert run(summary, tree) == 0
    metrics = json.loads((tree / "run" / "metrics.json").read_text())
    assert set(metrics) == {"retrieval", "caption", "qa", "seconds", "versions", "protocol"}
    groups = [group[1:] for group in GROUPS]
    assert set(metrics["retrieval"]) == {*groups, "chance", "ceiling"}
    for group in groups:
        assert set(metrics["retrieval"][group]) == {"itc", "itm"}
        assert all(set(stage) == {"r1", "r5", "r10", "facts"} for stage in metrics["retrieval"][group].values())
        assert set(metrics["caption"][group]) == {"bleu4", "rougeL", "cider", "facts_named"}
    assert metrics["retrieval"]["chance"] == pytest.approx({"r1": 100 / 6, "r5": 500 / 6, "r10": 100.0})
    assert metrics["retrieval"]["ceiling"] == {group: 10.0 * (len(group) + 1) for group in groups}
    assert metrics["seconds"] == {"clips": 20.5, "pretrain": 200.0}
    assert metrics["protocol"]["qa"]["split_file"] == "test.json" and metrics["versions"] == {"python": "3.11"}
    out = capsys.readouterr().out
    assert "Text-to-video retrieval" in out and "majority answer" in out and "Captions" in out


def test_facts_and_majority_are_counted_by_hand(summary, tree):
    run(summary, tree)
    metrics = json.loads((tree / "run" / "metrics.json").read_text())
    assert metrics["caption"]["vas"]["facts_named"] == 100.0
    assert metrics["caption"]["v"]["facts_named"] == 0.0
    # vision: always "cow" is right for one clip of six, and so is the majority; audio: all right, "owl" for one of six.
    assert metrics["qa"]["vision"] == pytest.approx({"accuracy": 100 / 6, "majority": 100 / 6})
    assert metrics["qa"]["audio"] == pytest.approx({"accuracy": 100.0, "majority": 100 / 6})
    clip = {"seen": "Electric guitar", "heard": "cat", "said": "drum kit"}
    assert summary.names_facts("An electric guitar, a cat and a Drum Kit", clip)
    assert not summary.names_facts("an electric guitar, a caterpillar and a drum kit", clip)
    assert not summary.names_facts("a guitar, a cat and a drum kit", clip)


def test_the_first_clip_of_each_order_is_held_against_the_facts_that_its_tracks_tell(summary):
    stamps = {"a": ("cow", "badger", "owl"), "b": ("cow", "beaver", "cat"), "c": ("dog", "badger", "owl")}
    clips = {name: {"stamps": dict(zip(("seen", "heard", "said"), own))} for name, own in stamps.items()}
    groups = ("tv", "ta", "ts", "tva", "tvas")
    recalls = {"r1": 50.0, "r5": 100.0, "r10": 100.0}

    def entry(own: str, top: str, itc_top: str) -> dict:
        return {"clip_id": own, **{group: {"top": [*top], "itc_top": [*itc_top]} for group in groups}}

    result = {"metrics": {group: {"itm": recalls, "itc": recalls} for group in groups},
              "predictions": [entry("a", "bc", "cb"), entry("a", "ab", "ba")]}
    found = summary.retrieval_numbers(result, clips)
    # Re-ranked: b, which shares what is seen, and by ear (one recording) what is heard; then a itself. Contrastive: c, then b.
    assert {key: own["itm"]["facts"] for key, own in found.items()} == {"v": 100.0, "a": 100.0, "s": 50.0, "va": 100.0, "vas": 50.0}
    assert {key: own["itc"]["facts"] for key, own in found.items()} == {"v": 50.0, "a": 100.0, "s": 50.0, "va": 50.0, "vas": 0.0}

    alone = {"metrics": {"tv": {"itc": recalls}}, "predictions": [{"clip_id": "a", "tv": {"top": ["c"]}}]}
    assert summary.retrieval_numbers(alone, clips)["v"]["itc"]["facts"] == 0.0
    older = {"metrics": {"tv": {"itm": recalls, "itc": recalls}}, "predictions": [{"clip_id": "a", "tv": {"top": ["b"]}}]}
    assert summary.retrieval_numbers(older, clips)["v"]["itc"]["facts"] is None


def test_the_report_stands_alone(summary, tree):
    run(summary, tree)
    page = (tree / "run" / "report.html").read_text()
    assert page.count('<article class="card">') == 3 and page.count('<figure class="chart"') + page.count('<svg class="wave"') == 9
    assert "<script" not in page and "http" not in page and 'src="data:image/jpeg;base64,' in page
    assert "✓ right" in page and "✗ wrong" in page and "we met a" in page
    assert "| vas | 40.0 |" in (tree / "run" / "report.md").read_text()


@pytest.mark.parametrize(("missing", "stage"), [
    ("run/pretrain/log/metrics.jsonl", "training stage 'pretrain'"),
    ("run/test_cap/results/omnistamps.cap.json", "testing stage 'test_cap'"),
    ("run/seconds.json", "scripts/quickstart.sh"),
    ("data/ceilings.json", "python -m omnivast omnistamps --size quick"),
])
def test_what_is_missing_names_the_stage_to_run(summary, tree, capsys, missing, stage):
    (tree / missing).unlink()
    assert run(summary, tree) == 2
    error = capsys.readouterr().err
    assert stage in error and Path(missing).suffix in error and not (tree / "run" / "metrics.json").exists()


def test_a_zero_shot_result_is_added(summary, tree):
    result = (tree / "run" / "test_ret" / "results" / "omnistamps.ret.json").read_text()
    folder = tree / "run" / "test_pretrain_ret" / "results"
    folder.mkdir(parents=True)
    (folder / "omnistamps.ret.json").write_text(result)
    run(summary, tree)
    metrics = json.loads((tree / "run" / "metrics.json").read_text())
    assert metrics["pretrained"]["retrieval"]["vas"]["itm"]["r1"] == 48.0
    assert "before fine-tuning" in (tree / "run" / "report.html").read_text()
