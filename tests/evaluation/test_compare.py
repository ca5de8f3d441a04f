"""``python -m omnivast compare``: equal and different results of every objective, and what does not compare."""

import json
import random

import pytest

from omnivast.evaluation.compare import main
from omnivast.evaluation.run import evaluate
from tests.evaluation.fakes import FakeLoader, FakeModel, config_of


def result(objective, predictions, groups=("tv",), **protocol):
    return {"protocol": {"objective": objective, "groups": list(groups), "split_sha256": "00", **protocol}, "predictions": predictions}


def ranks(values, kind="itc"):
    return [{"clip_id": f"c{n // 2}", "text": f"t{n}", "tv": {f"{kind}_rank": value}} for n, value in enumerate(values)]


@pytest.fixture
def compared(tmp_path, capsys):
    def run(a, b, *flags):
        for name, own in (("a.json", a), ("b.json", b)):
            (tmp_path / name).write_text(own if isinstance(own, str) else json.dumps(own))
        out = tmp_path / "out.json"
        status = main([str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json", str(out), *flags])
        texts = capsys.readouterr()
        if status:
            return texts.err
        found = json.loads(out.read_text())
        return {row["metric"]: row for row in found["comparisons"]}, found["protocol_differences"], texts.out

    return run


def test_clear_small_and_absent_differences(compared):
    rng = random.Random(0)
    a = [rng.randint(1, 4) for _ in range(200)]
    found, _, text = compared(result("ret", ranks(a)), result("ret", ranks([1] * 200)))
    low, high = found["itc.r1"]["interval"]
    assert found["itc.r1"]["b"] == 100.0 and 0 < low <= found["itc.r1"]["difference"] <= high and found["itc.r1"]["p"] < 0.01
    assert found["itc.r5"] == {**found["itc.r5"], "difference": 0.0, "interval": [0.0, 0.0], "p": 1.0}
    assert found["itc.median_rank"]["difference"] < 0 and "itc.r1" in text and "1000 resamples" in text
    # The same entries in another order are the same result.
    shuffled = ranks(a)
    rng.shuffle(shuffled)
    assert {row["difference"] for row in compared(result("ret", ranks(a)), result("ret", shuffled))[0].values()} == {0.0}
    # One text of 200 better: no claim.
    better = [1 if n == a.index(4) else rank for n, rank in enumerate(a)]
    assert compared(result("ret", ranks(a)), result("ret", ranks(better)))[0]["itc.r1"]["p"] > 0.2


def test_pairing_sees_what_separate_intervals_do_not(compared):
    """Every clip a little better: surely a difference, though clips differ far more among themselves."""
    rng = random.Random(1)
    a = [rng.randint(10, 500) for _ in range(60)]
    found = compared(result("ret", ranks(a)), result("ret", ranks([rank - 1 for rank in a])))[0]["itc.mean_rank"]
    assert found["difference"] == pytest.approx(-1) and found["interval"] == pytest.approx([-1, -1]) and found["p"] < 0.01


def test_result_files_of_testing_and_groups(tmp_path, capsys):
    for name, seed in (("a", 1), ("b", 2)):
        model = FakeModel()
        model.pixels.data *= seed
        model.pixels.data[0] *= -seed
        config = config_of(itm_rerank_num=4, ret_bidirection_evaluation=True, dual_softmax_evaluation=True)
        evaluate(model, [FakeLoader("ret%tv%tvas_cap%tv%tvas_qa%tva", kinds=True)], config, folder=tmp_path / name, provenance={})
    for objective in ("ret", "cap", "qa"):
        paths = [tmp_path / name / f"toy.{objective}.json" for name in "ab"]
        own = json.loads(paths[0].read_text())
        assert own["intervals"] and main([*map(str, paths), "--json", str(tmp_path / "out.json")]) == 0
        found = json.loads((tmp_path / "out.json").read_text())["comparisons"]
        # Recomputed from the predictions, every metric and interval is the file's own.
        for row in found:
            place = own["metrics"][row["groups"][0]]
            for part in row["metric"].split("."):
                place = place[part]
            assert row["a"] == place and f"{row['groups'][0]}.{row['metric']}" in own["intervals"]
        assert len(found) == len(own["intervals"])
    kinds = set(json.loads((tmp_path / "a" / "toy.ret.json").read_text())["metrics"]["tv"])
    assert kinds == {"itm", "itm_v2t", "itc", "itc_v2t", "dual_softmax", "dual_softmax_v2t"}
    capsys.readouterr()
    path = str(tmp_path / "a" / "toy.cap.json")
    assert main([path, path, "--groups", "tv", "tvas"]) == 0 and "tv | tvas" in capsys.readouterr().out
    assert main([path, path, "--groups", "tv", "ta"]) == 2 and "has no group 'ta'; it has tv, tvas" in capsys.readouterr().err


def test_protocols_that_differ_are_named(compared):
    _, differences, text = compared(result("ret", ranks([1, 2]), frames=8, seconds=3), result("ret", ranks([1, 2]), frames=16, seconds=4))
    assert differences == {"frames": [8, 16]} and "protocol differs in frames: 8 | 16" in text


QUESTIONS = [{"clip_id": "c0", "question": "what", "answer": "dog", "tv": "dog"}]


@pytest.mark.parametrize(("a", "b", "message"), [
    (result("ret", ranks([1, 2, 3, 4])), result("ret", ranks([1, 2])), "lacks 2 entries that"),
    (result("ret", ranks([1])), result("ret", [{**ranks([1])[0], "text": "other"}]), "clip 'c0' with 't0'"),
    (result("ret", ranks([1])), result("qa", QUESTIONS), "the protocols differ in 'objective': 'ret'"),
    (result("ret", ranks([1])), result("ret", ranks([1]), split_sha256="11"), "the protocols differ in 'split_sha256'"),
    (result("ret", ranks([1])), result("ret", ranks([1]), groups=["ta"]), "no common group"),
    (result("qa", QUESTIONS), result("qa", [{**QUESTIONS[0], "answer": "cat"}]), "clip 'c0' has different 'answer'"),
    (result("cap", [{"clip_id": "c0", "references": ["a"], "tv": "a"}]),) * 2 + ("lacks 'scores': perhaps made by an older version",),
    ({"metrics": {}}, result("ret", ranks([1])), "is no result file"),
    ("{", result("ret", ranks([1])), "not JSON"),
    pytest.param("[" * 200_000, result("ret", ranks([1])), "not JSON", id="deep"),
    ({"protocol": 5, "predictions": []}, result("ret", ranks([1])), "is no result file"),
    (result("ret", [3]), result("ret", ranks([1])), "is no result file"),
    (result("weird", []), result("weird", []), "is no result file"),
])
def test_what_does_not_compare(compared, a, b, message):
    assert message in compared(a, b)
