"""VQAv2's official accuracy and answer normalisation (Antol et al., "VQA", ICCV 2015; Goyal et al., CVPR 2017), as the evaluation of
github.com/GT-Vision-Lab/VQA (BSD licence) computes them at its current state, oddities included: a comma between digits anywhere in an
answer removes all its punctuation, "let's" stays, an answer that all people agree on is compared as it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

PUNCTUATION = ";/[]\"{}()=+\\_-><@`,?!"
ARTICLES = frozenset(["a", "an", "the"])
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
           "nine": "9", "ten": "10"}
ENOUGH = 3
"""How many other people must have given an answer for it to be wholly right."""
MOST_POINTS = int(re.UNICODE)
"""The most full stops that are removed. The official evaluation passes a flag where ``re.sub`` expects a count, which limits it to this
number."""

# Words that lost an apostrophe. Of the regular ones every form is listed with its missing apostrophe; the last line is irregular.
_WITH_APOSTROPHE = """ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
 it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll somebody's
 someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll they're they've 'twas wasn't we've
 weren't what'll what're what's what've when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've
 wouldn't y'all you'd you'll you're you've"""
_TWO_APOSTROPHES = """couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
 there'd've they'd've we'd've who'd've wouldn't've you'd've"""
_IRREGULAR = {"somebody'd": "somebodyd", "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at",
              "yall'll": "y'all'll", "y'allll": "y'all'll", "yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've"}


def _contractions() -> dict[str, str]:
    forms = {word.replace("'", ""): word for word in _WITH_APOSTROPHE.split()}
    for word in _TWO_APOSTROPHES.split():
        first, second = (n for n, letter in enumerate(word) if letter == "'")
        forms[word[:first] + word[first + 1 :]] = word
        forms[word[:second] + word[second + 1 :]] = word
    return {**forms, **_IRREGULAR}


CONTRACTIONS = _contractions()
_POINT = re.compile(r"\.(?!\d)")
_GROUPED = re.compile(r"\d,\d")


def normalise(answer: str) -> str:
    """An answer as the official evaluation compares it: lower case, punctuation, articles and full stops left out, numbers from
    none to ten as digits, lost apostrophes put back."""
    answer = stripped(answer)
    text, grouped = answer, _GROUPED.search(answer) is not None
    for mark in PUNCTUATION:
        beside_blank = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_blank or grouped else " ")
    text = _POINT.sub("", text, count=MOST_POINTS)
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def stripped(answer: str) -> str:
    """An answer without blanks at its ends; line breaks and tabs are blanks."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """From 0 to 1: the mean, over the people who answered, of min(1, matches among the others / 3).

    Args:
        answers: what each person answered (10 in VQAv2). A single answer has no others, so it must be scored by exact match instead.

    Raises:
        ValueError: fewer than two answers.
    """
    if len(answers) < 2:
        raise ValueError(f"VQA accuracy compares with the answers of several people, but there are {len(answers)}")
    prediction, answers = stripped(prediction), [stripped(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = normalise(prediction), [normalise(answer) for answer in answers]
    matches = [answer == prediction for answer in answers]
    return sum(min(1.0, (sum(matches) - left_out) / ENOUGH) for left_out in matches) / len(answers)


def submission(predictions: Sequence[Mapping[str, Any]], answer_key: str = "answer") -> list[dict[str, Any]]:
    """``[{"question_id": 1, "answer": "yes"}, …]`` as the VQA server expects it; ids made of digits become numbers.

    Raises ValueError for an entry without id, and for an id that occurs twice.
    """
    rows: dict[Any, dict[str, Any]] = {}
    for number, entry in enumerate(predictions):
        question_id = entry.get("question_id")
        if question_id is None or question_id == "":
            raise ValueError(f"prediction {number} has no 'question_id', which the submission file needs")
        key = int(question_id) if str(question_id).isdecimal() else question_id
        if key in rows:
            raise ValueError(f"question_id {key!r} occurs twice among the predictions")
        rows[key] = {"question_id": key, "answer": entry[answer_key]}
    return list(rows.values())
