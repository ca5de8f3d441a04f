"""What a language model wrote, checked: whether it has the form that was asked for, and whether its answers keep to the captions.

The second is a check of words. A word of an answer is known where the captions have it, in another form too (dog, dogs; bark, barking),
or where it is one that says nothing of a clip. It does not see a fact that is turned round in words that are all known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from omnivast.corpus.instruct.templates import TURNS

SCHEMA = {"type": "object", "required": ["turns"], "additionalProperties": False, "properties": {"turns": {
    "type": "array", "items": {"type": "object", "required": ["question", "answer"], "additionalProperties": False,
                               "properties": {"question": {"type": "string"}, "answer": {"type": "string"}}}}}}
"""Of replies, for endpoints that can be held to one; ``read_reply`` checks it for all."""
UNKNOWN = {"conversation": 0.15, "description": 0.15, "reasoning": 0.6}
"""Kind → the largest share of an answer's words with a meaning that the captions need not have: none of six, one of seven."""
LONGEST = 2000
"""Characters of a question or an answer."""
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand""".split()  # noqa: SIM905 (to be read)
PLAIN = frozenset("""
a about above across actually after again against all along also although always am among an and another any anyone anything
appear appears are around as at audible away back be because become becomes been before behind being below beneath beside between both
but by called came can cannot certain clearly clip come comes consist could depict depicted describe detail did different do does doing
done down during each either else especially even ever every everything feature featured features few filled find first for from front
further gets give given gives go goes going had happen happening happens has have having he hear heard hears her here hers him his how
however i if in indeed inside instead into is it its itself kind know last later least less like likely listen little look looks loud
made main mainly make makes making many may me means might more most much must my near nearby neither never next no noise none nor not
note noted nothing now of off often on once one only onto or other others our out over overall own part particular people perhaps person
picture place plainly possible possibly present probably quite rather really same scene second see seem seems seen several shall she
should show showing shown shows side sight since so some somebody someone something sometimes somewhere soon sort sound sounds still
such suggest suggests surely take taken takes taking talk tell tells than that the their theirs them then there these they thing things
this those though through throughout thus time to together too toward towards two type under unknown until up upon us use used uses
using usually very video view visible want was way we well were what whatever when where whether which while who whole whom whose why
will with within without would yes yet you your""".split())  # noqa: SIM905 (likewise)
"""Words that say nothing of a clip."""
TELLTALE = re.compile(r"\b(captions?|context|transcripts?|as an ai|language model|i can(?:no|')t|i'm sorry|i am sorry|was not provided|"
                      r"is not mentioned|not specified)\b", re.IGNORECASE)
"""What betrays that a text, not a video, was looked at, or that the model refused."""


class Fault(ValueError):  # noqa: N818 (a reason that is counted, not an error)
    """A reply that is not used; the message is one of few reasons, to be counted."""


@dataclass(frozen=True)
class Pair:
    question: str
    answer: str


def read_reply(reply: str, kind: str) -> list[Pair]:
    """The pairs of a reply, by ``SCHEMA``; text around the object, such as a fence, is left out. Raises Fault."""
    start, end = reply.find("{"), reply.rfind("}")
    if start < 0 or end < start:
        raise Fault("no JSON object")
    try:
        content = json.loads(reply[start : end + 1])
    except (ValueError, RecursionError):
        raise Fault("not valid JSON") from None
    if set(content) != {"turns"} or not isinstance(content["turns"], list):
        raise Fault("not by the schema: an object with 'turns', a list")
    for turn in content["turns"]:
        if not isinstance(turn, dict) or set(turn) != {"question", "answer"} or not all(isinstance(text, str) for text in turn.values()):
            raise Fault("not by the schema: turns with 'question' and 'answer', strings")
    fewest, most = TURNS[kind]
    if not fewest <= len(content["turns"]) <= most:
        raise Fault(f"not {fewest} to {most} turns" if most > fewest else "not one turn")
    return [Pair(" ".join(turn["question"].split()), " ".join(turn["answer"].split())) for turn in content["turns"]]


def check_pairs(pairs: Sequence[Pair], kind: str, captions: Iterable[str]) -> None:
    """Raises Fault for pairs that cannot be learnt from: empty, too long, repeated, a refusal, or answers that leave the captions."""
    known = {_stem(word) for text in captions for word in words(text)}
    for place, pair in enumerate(pairs):
        if not pair.question or not pair.answer:
            raise Fault("an empty question or answer")
        if max(len(pair.question), len(pair.answer)) > LONGEST:
            raise Fault("a text that is too long")
        if any(pair.question.lower() == other.question.lower() for other in pairs[:place]):
            raise Fault("a question twice")
        if re.search(r"<\w+>", pair.question + pair.answer):
            raise Fault("a placeholder or tag in a text")
        if TELLTALE.search(pair.question) or TELLTALE.search(pair.answer):
            raise Fault("speaks of its captions, or refuses")
        _check_answer(pair.answer, known, UNKNOWN[kind], exact=kind != "reasoning")


def _check_answer(answer: str, known: set[str], share: float, exact: bool) -> None:
    meant = [word for word in words(answer) if word not in PLAIN]
    if exact and any(_is_number(word) and _stem(word) not in known for word in words(answer) if word not in ("one", "two")):
        raise Fault("a number that no caption has")
    foreign = [word for word in meant if _stem(word) not in known]
    if len(foreign) > int(share * len(meant)):
        raise Fault("an answer with words that no caption has")
    if meant and len(foreign) == len(meant):
        raise Fault("an answer without a word of the captions")


def words(text: str) -> list[str]:
    """Its words in lower case, without marks and the 's of a genitive."""
    return [word.removesuffix("'s") for word in re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower().replace("’", "'"))]


def _is_number(word: str) -> bool:
    return word.isdigit() or word in NUMBERS


def _stem(word: str) -> str:
    """A word without the endings of plurals and of forms of verbs, as far as that needs no dictionary: the same for dog and dogs, slice,
    sliced and slicing, run and running, baby and babies."""
    for endings in ((("ies", 2), ("es", 3), ("s", 3)), (("ing", 3), ("ied", 2), ("ed", 3), ("er", 4))):
        for ending, least in endings:
            if word.endswith(ending) and len(word) - len(ending) >= least and not word.endswith("ss"):
                word = word[: -len(ending)] + ("y" if ending in ("ies", "ied") else "")
                break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word.endswith("e") else word
