"""VQAv2's normalisation and accuracy: cases worked out by hand along the official evaluation's steps."""

import pytest

from omnivast.evaluation.metrics.vqa import CONTRACTIONS, normalise, submission, vqa_accuracy


@pytest.mark.parametrize(("answer", "expected"), [
    ("Yes", "yes"),
    ("  a red car\n", "red car"),
    ("The Two dogs", "2 dogs"),
    ("none", "0"),
    ("ten o'clock", "10 o'clock"),
    ("dont know", "don't know"),
    ("couldnt've", "couldn't've"),
    ("somebody'd", "somebodyd"),  # An oddity of the official table.
    ("let's go", "let's go"),
    ("t-shirt", "t shirt"),  # A mark between letters becomes a blank …
    ("red - blue", "red blue"),  # … beside a blank it goes.
    ("well-known - place", "wellknown place"),  # One such place decides for all of that mark.
    ("1,000 t-shirts", "1000 tshirts"),  # Digits grouped by a comma: all punctuation goes.
    ("3.5 m.", "3.5 m"),  # A point before a digit stays.
    ("a.m.", "am"),
    ("a m", "m"),
    ("what?!", "what"),
    ("and/or", "and or"),
    ("5%", "5%"),
    ("it's 5:30", "it's 5:30"),
    ("one-two", "1 2"),  # Punctuation goes before numbers are looked up.
    ("", ""),
    ("the", ""),
    ("." * 40, "." * 8),  # A flag stands where a count belongs: 32 points at most.
])
def test_normalised_answers(answer, expected):
    assert normalise(answer) == expected


def test_the_table_of_apostrophes():
    assert len(CONTRACTIONS) == 114
    assert {"aint": "ain't", "weve": "we've", "twas": "'twas", "y'alldve": None}.items() - CONTRACTIONS.items() == {("y'alldve", None)}


@pytest.mark.parametrize(("yes", "expected"), [
    # n of 10 people gave the answer: n leave n - 1 others with it, 10 - n leave n.
    (0, 0.0),
    (1, (1 * 0 + 9 * 1 / 3) / 10),
    (2, (2 * 1 / 3 + 8 * 2 / 3) / 10),
    (3, (3 * 2 / 3 + 7 * 1) / 10),
    (4, 1.0),
    (10, 1.0),
])
def test_leaving_one_person_out(yes, expected):
    assert vqa_accuracy("Yes.", ["yes"] * yes + ["maybe"] * (10 - yes)) == pytest.approx(0.0 if yes == 10 else expected)
    assert vqa_accuracy("yes", ["yes"] * yes + ["maybe"] * (10 - yes)) == pytest.approx(expected)


def test_answers_of_people_are_normalised_too_unless_all_agree():
    assert vqa_accuracy("2 dogs", ["two dogs"] * 5 + ["the cat"] * 5) == 1.0
    assert vqa_accuracy("2 dogs", ["two dogs"] * 10) == 0.0
    assert vqa_accuracy("two dogs ", ["two dogs"] * 10) == 1.0
    assert vqa_accuracy("", ["yes"] * 9 + ["the"]) == pytest.approx(9 / 30)  # "the" is nothing once normalised.
    with pytest.raises(ValueError, match="several people, but there are 1"):
        vqa_accuracy("yes", ["yes"])


def test_submission():
    assert submission([{"question_id": "262148000", "answer": "down"}, {"question_id": "v_1", "tv": "x", "answer": "y"}]) == [
        {"question_id": 262148000, "answer": "down"}, {"question_id": "v_1", "answer": "y"}]
    with pytest.raises(ValueError, match="question_id 7 occurs twice"):
        submission([{"question_id": 7, "answer": "a"}, {"question_id": "7", "answer": "b"}])
    with pytest.raises(ValueError, match="prediction 0 has no 'question_id'"):
        submission([{"answer": "a"}])
