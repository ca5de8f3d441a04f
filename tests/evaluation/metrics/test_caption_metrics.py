"""BLEU, ROUGE-L, CIDEr and the tokenizer against hand-made cases and against pycocoevalcap."""

import json
import math
import random
import shutil
from pathlib import Path

import pytest

from omnivast.evaluation.captions import evaluator
from omnivast.evaluation.captions.evaluator import score_captions
from omnivast.evaluation.captions.java import JavaScores
from omnivast.evaluation.metrics.bleu import bleu
from omnivast.evaluation.metrics.cider import cider
from omnivast.evaluation.metrics.rouge import common_subsequence, rouge_l
from omnivast.evaluation.metrics.tokenizer import tokenize

ROOT = Path(__file__).resolve().parents[3]
ANNOTATIONS = ROOT.parent / "shared" / "annotations"
ODD = [
    "A man's dog can't swim; it's \"fun\" isn't it?", "don't won't i'm they've she'll gonna cannot 'tis y'all o'clock ma'am",
    "Mr. Smith vs. Dr. No, etc.", "It costs $5.00, 10% off... at 3:30 p.m. today", "a well-known T-shirt (x-ray) [here] {there}",
    "1/2 cup, 1 1/2 cups, 2,000 people 1990s '90s 5'10\" 5ft 3.5mm 12:30pm", "a--b a - b a – b a — b",
    "AT&T R&B rock & roll &amp; &quot;x&quot;",
    "“quoted” ‘single’ it’s don’t", "café naïve 日本語 😀 emoji", "#hashtag @user *star* a_b and/or w/o he/she ~ ^ |",
    "end. end.. end... end!! end?!",
    "no.1 No. 5 fig. 3 vol. 2 Jan. 5", "hello,world hello!world man.then .5 -5 1.2.3 80-year-old", "the girls' hats James' car boss's",
    "", "...", "http://www.example.com/a?b=c foo@bar.com www.x.com amazon.com",
    "plan b. The man. plan b. the man", ":) :-) <3 ^_^ 20°C ½ £5 €6 7¢",
]

ODD_WORDS = """man's dogs' can't won't it’s isn’t I'd we've they'll 'tis 'em o'clock rock'n'roll y'all gonna cannot lemme
“big” ‘small’ "red" 'blue' `x` ``yes'' «ja» — – -- - ... … . , ; : ! ? ?! !!! (small) [big] {odd} <b> </i> &amp; &quot; &lt;3 &#39; &nbsp;
5 5% $5.00 £6 €7 3.5mm 10km/h 20°C 5'10" 1/2 ½ 1,000 2,5 10:30 3pm 1990s '90s 2nd 3-year-old -5 +7 4x4 50,000,000 3.14 1.5l #1 No. 5
Mr. Ms. Dr. St. U.S. U.S.A. e.g. i.e. etc. vs. a.m. p.m. Jan. Inc. T-shirt x-ray well-known mother-in-law and/or he/she AT&T R&B
café naïve façade Zoë über 日本語 привет 😀 👍🏽 ❤️ ™ © ® • → × ñandú cafe\u0301 e\u0301 a\u0308 \u0301 soft\u00adhy 1\u20442 x² ① Ⅳ ﬁ ß
İ ı Ω \u200b \ufeff http://a.com/b?c=d www.x.org me@x.com @user #tag a_b *star* ~ ^ | \\ / = + % & @ C++ C# :) :-( ;) :D <3
the a man woman dog runs on in park Plan b. x y. word, next"""


def fuzzed(sentences: int) -> list[str]:
    """Odd words in random order, one or two blanks between them."""
    rng, words = random.Random(7), ODD_WORDS.split()
    return [rng.choice([" ", "  "]).join(rng.choice(words) for _ in range(rng.randint(1, 9))) for _ in range(sentences)]


def omnistamps_captions() -> list[str]:
    """Every text of a set of 48 clips, and of the quickstart's thousands of clips where it was built."""
    path = ROOT / "datasets" / "omnistamps"
    return [text for name in sorted(path.glob("*/*.json")) if name.parent.name in ("debug", "quick")
            for text in strings_of(json.loads(name.read_text()))]


def corpus(clips: int = 200) -> tuple[list[str], list[list[str]]]:
    """Random tokenised captions; some perfect, some empty, some references empty."""
    rng = random.Random(1)
    words = ["a", "the", "man", "woman", "dog", "is", "runs", "sits", "on", "in", "red", "car", "with", "big", "park", "and"]

    def sentence(longest: int = 14) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(0, longest)))

    references = [[sentence() for _ in range(rng.randint(1, 5))] for _ in range(clips)]
    candidates = [rng.choice(own) if rng.random() < 0.2 else sentence() for own in references]
    return candidates, references


def as_coco(candidates, references):
    return dict(enumerate(references)), {n: [own] for n, own in enumerate(candidates)}


@pytest.mark.parametrize("clips", [1, 2, 200])
def test_scores_equal_the_reference_implementation(clips):
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    candidates, references = corpus(clips)
    gts, res = as_coco(candidates, references)
    assert bleu(candidates, references) == pytest.approx(Bleu(4).compute_score(gts, res, verbose=0)[0], abs=1e-9)
    for own, other in ((rouge_l, Rouge()), (cider, Cider())):
        mean, each = own(candidates, references)
        expected, expected_each = other.compute_score(gts, res)
        assert mean == pytest.approx(float(expected), abs=1e-9) and each == pytest.approx(expected_each.tolist(), abs=1e-9)


def real_captions() -> list[list[str]]:
    """Tokenised captions of every clip that has several, of OmniStamps and of the benchmarks' first rows, where they are there."""
    found: dict[str, list[str]] = {}
    for path in [*sorted((ROOT / "datasets" / "omnistamps").glob("*/cap_*_references.json")), *sorted(ANNOTATIONS.glob("*.json"))]:
        value = json.loads(path.read_text())
        for row in value["annotations"] if isinstance(value, dict) else value:
            texts = row.get("caption", row.get("desc", []))
            clip_id = f"{path} {row.get('video_id', row.get('image_id'))}"
            found.setdefault(clip_id, []).extend(map(tokenize, [texts] if isinstance(texts, str) else texts))
    return [own for own in found.values() if len(own) > 1]


def test_scores_of_real_captions_equal_the_reference_implementation():
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    clips = real_captions()
    assert len(clips) >= 16 and sum(map(len, clips)) >= 64
    # Each clip's first caption against its others; every fourth one is another clip's.
    candidates, references = [own[0] for own in clips], [own[1:] for own in clips]
    candidates[::4] = candidates[::4][::-1]
    gts, res = as_coco(candidates, references)
    entries = [{"references": own, "tv": candidate} for own, candidate in zip(references, candidates)]
    found = score_captions(entries, ["tv"])
    expected = [*Bleu(4).compute_score(gts, res, verbose=0)[0], Rouge().compute_score(gts, res)[0], Cider().compute_score(gts, res)[0]]
    names = [*(f"bleu{n}" for n in range(1, 5)), "rougeL", "cider"]
    assert [found.metrics["tv"][name] / 100 for name in names] == pytest.approx(list(map(float, expected)), abs=1e-9)


def test_bleu_by_hand():
    # 5 of 6 words and 3 of 5 pairs match; the closest reference has 6 words, so there is no brevity penalty.
    scores = bleu(["the cat sat on the mat"], [["the cat is on the mat", "a cat"]], order=2)
    assert scores == pytest.approx([5 / 6, math.sqrt(5 / 6 * 3 / 5)])
    # All matches, but half as long as its only reference.
    assert bleu(["a b"], [["a b c d"]], order=1) == pytest.approx([math.exp(1 - 2)])


def test_rouge_by_hand():
    # The common subsequence "a c d" has 3 words: precision 3/4, recall 3/5.
    precision, recall = 3 / 4, 3 / 5
    assert rouge_l(["a b c d"], [["a c x y d"]])[0] == pytest.approx(2.44 * precision * recall / (recall + 1.44 * precision))
    assert common_subsequence(list("abcd"), list("bxda")) == 2
    assert common_subsequence([], ["a"]) == 0


def test_cider_by_hand():
    # Two documents of one word each: idf log 2, cosine 1 for 1-grams only, a quarter of 10 for each right caption.
    assert cider(["a", "b"], [["a"], ["b"]])[1] == pytest.approx([2.5, 2.5])
    assert cider(["a", "a"], [["a"], ["b"]])[1] == pytest.approx([2.5, 0.0])


def test_spider_is_the_mean_of_cider_and_spice(monkeypatch):
    entries = [{"references": ["a man runs"], "tv": "a man runs"}, {"references": ["two dogs"], "tv": "a cat"}]
    found = score_captions(entries, ["tv"])
    assert "spider" not in found.metrics["tv"] and found.not_computed["spider"] == "needs SPICE"
    monkeypatch.setattr(evaluator, "java_scores", lambda systems, references, seconds: JavaScores(spice=[[0.5, 0.1]]))
    found = score_captions(entries, ["tv"])
    scores = found.metrics["tv"]
    assert scores["spice"] == pytest.approx(30.0) and scores["spider"] == pytest.approx((scores["cider"] + 30.0) / 2)
    assert "tv.spider" in found.intervals and "spider" not in found.not_computed


def test_scores_do_not_depend_on_the_order_of_clips_and_empty_captions_score_nothing():
    candidates, references = corpus(50)
    order = list(range(50))
    random.Random(3).shuffle(order)
    shuffled = [candidates[n] for n in order], [references[n] for n in order]
    assert bleu(*shuffled) == pytest.approx(bleu(candidates, references))
    assert cider(*shuffled)[0] == pytest.approx(cider(candidates, references)[0])
    for metric in (rouge_l, cider):
        assert metric([""], [["a man"]])[0] == 0.0
    assert max(bleu([""], [["a man"]])) < 1e-6
    entries = [{"references": ["A man runs."], "tv": "a man runs"}, {"references": ["Two dogs, barking!"], "tv": "two dogs barking"}]
    scores = score_captions(entries, ["tv"]).metrics["tv"]
    assert list(scores)[0] == "cider" and scores["rougeL"] == pytest.approx(100.0) and scores["bleu1"] == pytest.approx(100.0)


def test_what_cannot_be_scored_is_an_error():
    with pytest.raises(ValueError, match="1 clips have no reference caption, the first in row 1"):
        bleu(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="2 candidate captions for 1 clips"):
        cider(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="no caption"):
        rouge_l([], [])


@pytest.mark.parametrize(("sentence", "tokens"), [
    ("A man's dog can't swim.", "a man 's dog ca n't swim"),
    ("They cannot, won't: \"really\"?", "they can not wo n't really"),
    ("(a red T-shirt)", "-lrb- a red t-shirt -rrb-"),
    ("10% of $5 at 3:30 p.m.", "10 % of $ 5 at 3:30 p.m."),
    ("1 1/2 cups -- 'n' more...", "1\u00a01/2 cups 'n' more"),
    ("what?!  ", "what ?!"),
    ("plain words", "plain words"),
    ("...", ""),
])
def test_tokens(sentence, tokens):
    assert tokenize(sentence) == tokens


def strings_of(value):
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings_of(part)


def captions_of(value):
    """Every text of an annotation file but ids."""
    rows = value["annotations"] if isinstance(value, dict) else value
    for row in rows:
        for name, part in row.items():
            if not name.endswith("id"):
                yield from strings_of(part)


@pytest.mark.skipif(shutil.which("java") is None, reason="the reference tokenizer needs Java")
def test_tokens_equal_the_reference_tokenizer():
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = [*ODD, *fuzzed(2000), *omnistamps_captions()]
    for path in sorted(ANNOTATIONS.glob("*.json")):  # Absent on machines that have the repository alone.
        captions.extend(captions_of(json.loads(path.read_text())))
    captions = list(dict.fromkeys(captions))
    assert len(captions) > 2000
    # The reference looks past the end of a line, so every caption is followed by one plain word.
    found = PTBTokenizer().tokenize({n: [{"caption": f"{caption} end"}] for n, caption in enumerate(captions)})
    different = [(caption, tokenize(f"{caption} end"), found[n][0]) for n, caption in enumerate(captions)
                 if tokenize(f"{caption} end") != found[n][0]]
    assert not different
