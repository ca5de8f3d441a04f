"""What counts as a fact of captions, and which captions are taken."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from omnivast.corpus.fusion.check import problems
from omnivast.corpus.fusion.language import phrases, stem, tokens
from omnivast.corpus.fusion.sentence import sentence
from omnivast.corpus.fusion.sources import facts_of
from omnivast.corpus.omnistamps.facts import draw_clips, entities_of, read_stamps, size_named
from omnivast.corpus.omnistamps.texts import OMNI, write_texts

COW = ["a cow moves left on a red background", "in front of a red wall a cow is moving left",
       "look at a cow as it moves left before a red screen"]
PIG = ["the sound of a pig", "a pig is heard", "a pig can be heard over a faint hiss"]
SAID = "my uncle has waited two weeks for an otter"
GOOD = "A cow moves left on a red background while a pig is heard, and a voice says: my uncle has waited two weeks for an otter."
FACTS = facts_of(COW, PIG, SAID)


@pytest.mark.parametrize("words", ["moves moving moved move", "dog dogs", "cherry cherries", "run runs running", "box boxes", "men man",
                                   "bicycle bikes bike", "horse horses", "glass glasses", "bee bees"])
def test_forms_of_a_word_have_one_stem(words):
    assert len({stem(word) for word in words.split()}) == 1


def test_words_that_only_look_alike_have_two():
    assert stem("iris") == "iris" and stem("king") == "king" and stem("bed") != stem("be")


@pytest.mark.parametrize("text, names", [
    ("a large brown dog runs across the beach", ["large brown dog", "beach"]), ("a slice of pizza is moving", ["slice pizza"]),
    ("the sound of a fire truck", ["fire truck"]), ("a blue and yellow flag on a red wall", ["blue yellow flag", "wall"]),
    ("an orange is shrinking", ["orange"]), ("he drew an otter five times", ["otter", "five times"]), ("look at a fly", ["fly"])])
def test_names_of_things(text, names):
    found = [" ".join(phrase.words) for phrase in phrases(tokens(text))]
    assert [name for name in names if not any(one.endswith(name) for one in found)] == []


def test_facts_are_what_captions_agree_on():
    needed = {name: [" ".join(phrase.words) for phrase in kind.needed] for name, kind in FACTS.kinds.items()}
    assert needed == {"vision": ["cow"], "audio": ["pig"], "subtitle": ["otter"]}
    assert FACTS.kinds["vision"].outvoted == () and {"red", "left"} <= FACTS.words and "green" not in FACTS.words


def test_a_wrong_caption_is_outvoted():
    facts = facts_of([COW[0], "a green frog is moving up on a log", COW[1]], [PIG[0], "we hear a dog", PIG[1]], SAID)
    assert facts.kinds["vision"].outvoted == ("a green frog is moving up on a log",) and facts.kinds["audio"].outvoted == ("we hear a dog",)
    assert problems(GOOD, facts) == [] and "no source: frog" in problems(GOOD.replace("cow", "frog"), facts)
    assert problems(GOOD.replace("pig", "dog"), facts) == ["lacks audio", "no source: dog"]


def test_a_wrong_detail_is_outvoted_and_an_undecided_one_is_not_told():
    facts = facts_of([COW[0], COW[1].replace("red", "green"), COW[2].replace("left", "up")], PIG, SAID)
    assert {"green", "up"} & facts.words == set() and {"red", "left"} <= facts.words
    undecided = facts_of([COW[0], COW[1].replace("red", "green")], PIG, SAID)
    assert {"green", "red"} & undecided.words == set()


def test_the_longest_name_that_most_captions_have():
    facts = facts_of(["look at a red flag", "a red flag moves up", "a blue and yellow flag is moving"], PIG, SAID)
    assert [phrase.words for phrase in facts.kinds["vision"].needed] == [("red", "flag")] and "blue" not in facts.words


def test_words_of_sight_within_what_is_said():
    facts = facts_of(COW, PIG, "we walked far just to look at a fox")
    assert problems("A cow moves left while a pig is heard, and a voice says: we walked far just to look at a fox.", facts) == []


def test_captions_of_which_no_two_agree():
    facts = facts_of(["a cow on grass", "a frog in water", "an empty street"], PIG, SAID)
    assert facts.kinds["vision"].disagreement and not facts.kinds["audio"].disagreement


def test_a_general_word_agrees_with_a_special_one():
    assert not facts_of(["a man rides a bike", "a person is riding a bicycle", "a person on a bike"], PIG, "").kinds["vision"].disagreement


@pytest.mark.parametrize("text, wrong", [
    (GOOD, []), ("A pig is heard while a cow is shown and someone talks about an otter.", []), ("", ["empty"]), ("...", ["empty"]),
    ("I'm sorry, but I cannot describe a clip of a cow.", ["refusal"]), ("Caption: " + GOOD, ["form"]), (GOOD + "\nSeen: a dog", ["form"]),
    ("A cow, a pig.", ["length: 4 words"]), (GOOD + " " + GOOD, ["repeats itself"]),
    ("A cow moves left while a pig is heard and somebody talks.", ["lacks subtitle"]),
    (GOOD.replace("moves left", "moves left in a kitchen"), ["no source: kitchen"]),
    (GOOD.replace("two weeks", "three weeks"), ["no source: three"]),
    (GOOD.replace("A cow", "A red cow"), ["no source: red cow"]), (GOOD.replace("is heard", "is not heard"), ["no source: not"]),
    ("A pig moves left on a red background while a cow is heard, and a voice speaks of an otter.", ["sense: cow", "sense: pig"]),
    (GOOD.replace("moves left", "moves left as an otter"), ["sense: otter"]),
    ("An otter is shown while a pig is heard and a voice talks about a cow.", ["sense: cow", "sense: otter"])])
def test_what_is_wrong_is_said(text, wrong):
    assert problems(text, FACTS) == wrong


def test_a_long_subtitle_may_be_told_in_part():
    said = ("so today we are going to make a cake with three eggs and a cup of flour and then we will put it into a hot oven for half an "
            "hour until a fork comes out clean")
    facts = facts_of(COW, PIG, said)
    assert problems("A cow is shown while a pig is heard, and a voice speaks of a hot oven and a fork.", facts) == []
    assert problems("A cow is shown while a pig is heard, and a voice speaks of today.", facts) == ["lacks subtitle"]


def test_the_sentence_without_a_model_passes_the_check():
    assert sentence(FACTS) == ("A cow moves left on a red background; in the audio: a pig is heard; someone says: my uncle has waited two "
                               "weeks for an otter.")
    assert sentence(facts_of(COW[:1], [], "")) == "A cow moves left on a red background."
    quoted = sentence(facts_of(COW, PIG, "well " * 60 + "he drew an otter " + "again " * 60))
    assert quoted is None or len(quoted.split()) < 60


def test_what_is_true_of_omnistamps_is_taken_and_what_is_not_is_refused():
    """Each of the set's sentences with the clip's facts, with facts of another sense, and with another thing."""
    stamps = read_stamps(Path(__file__).parents[3] / "datasets/omnistamps")
    size = size_named("full")
    clips = draw_clips(entities_of(size, stamps), {"train": 30, "val": 24, "test": 24}, 11)[:30]
    wrong = {"right": 0, "sense": 0, "thing": 0}
    for clip, other in zip(clips, clips[1:] + clips[:1]):
        texts = write_texts(clip, stamps, 0)
        facts = facts_of(texts.vision, texts.audio, texts.subtitle)
        own = {role: stamps[getattr(clip, role)].phrase for role in ("seen", "heard", "said")}
        for template in OMNI:
            wrong["right"] += bool(problems(template.format(**own), facts))
            for turned in list(itertools.permutations(own.values()))[1:]:
                wrong["sense"] += not problems(template.format(**dict(zip(own, turned))), facts)
            for role in own:
                thing = stamps[getattr(other, role)].phrase
                wrong["thing"] += thing not in own.values() and not problems(template.format(**{**own, role: thing}), facts)
    assert wrong["right"] <= 5 and wrong["sense"] <= 5 and wrong["thing"] <= 2
