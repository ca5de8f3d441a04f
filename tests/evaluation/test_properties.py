"""What any honest score does: the order of clips changes nothing, a perfect prediction scores the maximum, an empty one nothing, copies of
all clips change nothing."""

import random

import pytest

from omnivast.evaluation.captions.evaluator import score_captions
from omnivast.evaluation.collect import flatten
from omnivast.evaluation.questions.evaluator import answer_metrics
from omnivast.evaluation.retrieval.measures import rank_metrics

RNG = random.Random(4)
WORDS = ["a", "man", "dog", "runs", "sits", "red", "car", "park", "on", "in", "sings", "two"]


def sentence() -> str:
    return " ".join(RNG.choice(WORDS) for _ in range(RNG.randint(3, 9)))


RANKED = [{"clip_id": f"c{n // 2}", "text": f"t{n}",
           "tv": {"itm_rank": RNG.randint(1, 60), "itc_rank": RNG.randint(1, 60), "itc_v2t_rank": 1 + n // 2, "dual_softmax_rank": 3}}
          for n in range(40)]
REFERENCES = [[sentence() for _ in range(1 + n % 3)] for n in range(40)]
# All of a caption's n-grams occur in references: those that occur in none weigh by the number of clips.
CAPTIONED = [{"clip_id": f"c{n}", "references": own, "tv": RNG.choice([own[0], REFERENCES[n - 1][0]])} for n, own in enumerate(REFERENCES)]
ANSWERED = [{"clip_id": f"c{n // 3}", "question": f"q{n}", "answer": "two dogs", "answers": ["two dogs"] * 6 + ["a cat"] * 4,
             "type": RNG.choice(["seen", "heard"]), "tv": RNG.choice(["2 dogs", "Two dogs ", "a cat", "cow", ""])} for n in range(45)]


def captions(entries):
    return score_captions(entries, ["tv"]).metrics


def ranks(entries):
    return rank_metrics(entries, ["tv"])[0]


def answers(entries):
    return answer_metrics(entries, ["tv"])[0]


METRICS = pytest.mark.parametrize(("metric", "entries"), [(ranks, RANKED), (captions, CAPTIONED), (answers, ANSWERED)])


@METRICS
def test_the_order_of_clips_changes_nothing(metric, entries):
    shuffled = random.Random(5).sample(entries, len(entries))
    assert [entry["clip_id"] for entry in shuffled] != [entry["clip_id"] for entry in entries]
    assert dict(flatten(metric(shuffled))) == pytest.approx(dict(flatten(metric(entries))), abs=1e-9)


@METRICS
def test_a_copy_of_every_clip_changes_nothing(metric, entries):
    copies = [{**entry, "clip_id": f"copy of {entry['clip_id']}"} for entry in entries]
    assert dict(flatten(metric([*entries, *copies]))) == pytest.approx(dict(flatten(metric(entries))), abs=1e-9)


def test_a_perfect_prediction_scores_the_maximum():
    best = ranks([{**entry, "tv": dict.fromkeys(entry["tv"], 1)} for entry in RANKED])["tv"]
    assert set(best) == {"itm", "itc", "itc_v2t", "dual_softmax"}
    for own in best.values():
        assert own == {"r1": 100.0, "r5": 100.0, "r10": 100.0, "r50": 100.0, "median_rank": 1.0, "mean_rank": 1.0}
    single = [{"references": [f"the {n} th clip shows thing {n} here"], "tv": f"The {n} th clip, shows thing {n} here!"} for n in range(9)]
    assert captions(single)["tv"] == pytest.approx({"cider": 1000.0, **{f"bleu{n}": 100.0 for n in range(1, 5)}, "rougeL": 100.0})
    right = answers([{**entry, "tv": "two dogs"} for entry in ANSWERED])["tv"]
    assert dict(flatten(right)) == {"accuracy": 100.0, "accuracy_normalised": 100.0, "vqa_accuracy": 100.0, "types.heard": 100.0,
                                    "types.seen": 100.0}


def test_empty_predictions_score_nothing():
    assert dict(flatten(captions([{**entry, "tv": ""} for entry in CAPTIONED]))) == pytest.approx(
        dict.fromkeys(("tv.cider", "tv.bleu1", "tv.bleu2", "tv.bleu3", "tv.bleu4", "tv.rougeL"), 0.0), abs=1e-6)
    nothing = answers([{**entry, "tv": ""} for entry in ANSWERED])
    assert set(dict(flatten(nothing)).values()) == {0.0}
    mixed = [{**entry, "tv": "" if n % 2 else entry["tv"]} for n, entry in enumerate(CAPTIONED)]
    assert 0 < captions(mixed)["tv"]["cider"] < captions(CAPTIONED)["tv"]["cider"]


def test_a_worse_rank_never_scores_better():
    for place in range(0, len(RANKED), 7):
        worse = [{**entry, "tv": {**entry["tv"], "itm_rank": entry["tv"]["itm_rank"] + 20}} if n == place else entry
                 for n, entry in enumerate(RANKED)]
        before, after = ranks(RANKED)["tv"]["itm"], ranks(worse)["tv"]["itm"]
        assert all(after[name] <= before[name] for name in ("r1", "r5", "r10", "r50")) and after["mean_rank"] > before["mean_rank"]
