"""What the OmniStamps clips show and say: splits, ceilings, texts, vocabulary."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations

import pytest
from tokenizers import BertWordPieceTokenizer

from omnivast.corpus.omnistamps import facts
from omnivast.corpus.omnistamps.annotations import annotation_files, training_texts
from omnivast.corpus.omnistamps.build import SOURCE
from omnivast.corpus.omnistamps.ceilings import ceilings
from omnivast.corpus.omnistamps.facts import Clip, Entities, SourceError, draw_clips, entities_of, read_stamps, size_named
from omnivast.corpus.omnistamps.texts import AUDIO, OMNI, SUBTITLES, VISION, counted, write_texts
from omnivast.corpus.omnistamps.vocabulary import train_vocabulary


@pytest.fixture(scope="module")
def stamps():
    return read_stamps(SOURCE)


@pytest.fixture(scope="module", params=["quick", "full"])
def drawn(request, stamps):
    size = size_named(request.param)
    entities = entities_of(size, stamps)
    return size, entities, draw_clips(entities, size.clips, 0, size.cells)


@pytest.fixture(scope="module")
def quick_texts(stamps):
    size = size_named("quick")
    clips = draw_clips(entities_of(size, stamps), size.clips, 0, size.cells)
    return clips, {clip.clip_id: write_texts(clip, stamps, 0) for clip in clips}


def _clip(number, seen, heard, said):
    return Clip(f"test{number}", "test", seen, "left", "red", heard, said, "two")


# --- facts -----------------------------------------------------------------------------------------------------------------


def test_sizes_are_as_documented(drawn, stamps):
    size, entities, clips = drawn
    assert Counter(clip.split for clip in clips) == size.clips
    assert len({clip.clip_id for clip in clips}) == len(clips)
    expected = (284, 81, 284) if len(entities.seen) > 48 else (48, 32, 48)
    assert (len(entities.seen), len(entities.heard), len(entities.said)) == expected


def test_no_triple_and_no_pair_of_the_test_set_is_trained(drawn):
    _, _, clips = drawn
    for roles in combinations(range(3), 2):
        pairs = {split: {tuple(c.triple[r] for r in roles) for c in clips if c.split == split} for split in facts.SPLITS}
        assert not pairs["train"] & (pairs["test"] | pairs["val"])
    triples = [clip.triple for clip in clips]
    assert len(set(triples)) == len(triples), "no triple occurs twice, in one split or in two"


def test_every_name_is_trained_and_shared_in_the_test_set(drawn):
    _, entities, clips = drawn
    for role in ("seen", "heard", "said"):
        for split, least in (("train", 20), ("test", 3)):
            counts = Counter(getattr(clip, role) for clip in clips if clip.split == split)
            assert set(counts) == set(getattr(entities, role))
            assert min(counts.values()) >= least, f"{role} in {split}: no single track may identify a clip"


def test_a_clip_names_three_different_stamps(drawn):
    assert all(len(set(clip.triple)) == 3 for clip in drawn[2])


def test_scenes_are_balanced(drawn):
    train = [clip for clip in drawn[2] if clip.split == "train"]
    for field, values in (("motion", facts.MOTIONS), ("background", facts.BACKGROUNDS), ("number", facts.NUMBERS)):
        counts = Counter(getattr(clip, field) for clip in train)
        assert set(counts) == set(values) and max(counts.values()) - min(counts.values()) <= 1


def test_facts_depend_on_the_seed_alone(stamps):
    size = size_named("debug")
    first, again, other = (draw_clips(entities_of(size, stamps), size.clips, seed) for seed in (3, 3, 4))
    assert first == again and first != other


def test_the_order_of_the_names_does_not_matter():
    names = tuple("abcdefgh")
    entities = Entities(names, tuple("ijklmnop"), tuple("qrstuvwx"))
    turned = Entities(names[::-1], entities.heard[::-1], entities.said)
    counts = {"train": 24, "val": 4, "test": 4}
    assert draw_clips(entities, counts, 0) == draw_clips(turned, counts, 0)


def test_too_many_clips_for_the_stamps_is_an_error():
    entities = Entities(tuple("abcd"), tuple("efgh"), tuple("ijkl"))
    with pytest.raises(ValueError, match="fewer clips"):
        draw_clips(entities, {"train": 24, "val": 4, "test": 40}, 0)


def test_unknown_size_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'quick'"):
        size_named("quikc")


def test_a_broken_source_is_named(tmp_path, stamps):
    with pytest.raises(SourceError, match="stamps.json: no such file"):
        read_stamps(tmp_path)
    (tmp_path / "stamps.json").write_text("[{")
    with pytest.raises(SourceError, match="not JSON"):
        read_stamps(tmp_path)
    (tmp_path / "stamps.json").write_text(json.dumps([{"name": "cow", "caption": "a cow", "image": "cow.png"}]))
    with pytest.raises(SourceError, match="cow.png: no such file"):
        read_stamps(tmp_path)
    with pytest.raises(SourceError, match="no stamp"):
        entities_of(size_named("debug"), {})


# --- ceilings --------------------------------------------------------------------------------------------------------------


def test_ceilings_by_hand():
    clips = [_clip(0, "cow", "pig", "key"), _clip(1, "cow", "pig", "mug"), _clip(2, "cow", "owl", "key"), _clip(3, "rose", "owl", "key")]
    found = ceilings(clips)
    assert found["chance"] == {"r1": 25.0, "r5": 100.0, "r10": 100.0}
    assert found["v"]["r1"] == 50.0  # three clips show a cow (a third each), one a rose
    assert found["a"]["r1"] == 50.0  # two and two
    assert found["s"]["r1"] == 50.0
    assert found["va"]["r1"] == 75.0  # (cow, pig) twice
    assert found["vs"]["r1"] == 75.0  # (cow, key) twice
    assert found["as"]["r1"] == 75.0  # (owl, key) twice
    assert found["vas"] == {"r1": 100.0, "r5": 100.0, "r10": 100.0}


def test_ceiling_at_five_among_eight_alike():
    clips = [_clip(n, "cow", f"sound{n}", "key") for n in range(8)]
    assert ceilings(clips)["v"] == {"r1": 12.5, "r5": 62.5, "r10": 100.0}


def test_copies_of_a_recording_count_as_equal():
    found = ceilings([_clip(0, "cow", "badger", "key"), _clip(1, "rose", "beaver", "mug")])
    assert found["a"]["r1"] == 50.0 and found["va"]["r1"] == 100.0


def test_each_track_lifts_the_ceiling(drawn):
    found = ceilings([clip for clip in drawn[2] if clip.split == "test"])
    r1 = {group: found[group]["r1"] for group in ("v", "a", "s", "va", "vs", "vas")}
    assert r1["vas"] == 100.0
    assert found["chance"]["r1"] < min(r1["v"], r1["a"], r1["s"]) and max(r1["v"], r1["a"], r1["s"]) < 30
    assert 1.5 * r1["v"] < r1["va"] < 95 and 1.5 * r1["v"] < r1["vs"] < 95


# --- texts -----------------------------------------------------------------------------------------------------------------


def test_enough_wordings():
    assert len(OMNI) >= 12 and len(VISION) >= 8 and len(AUDIO) >= 8 and len(SUBTITLES) >= 12


def test_texts_say_their_facts_and_nothing_else(quick_texts, stamps):
    clips, texts = quick_texts
    for clip in clips:
        own = texts[clip.clip_id]
        for text in own.omni:
            assert all(stamps[name].phrase in text for name in clip.triple)
            # The sentence's own words never include a motion, background or number, only a stamp's name may ("pink flamingo").
            for name in clip.triple:
                text = text.replace(stamps[name].phrase, "")
            assert not {clip.background, clip.number, clip.motion} & set(text.split())
        for text in own.vision:
            assert stamps[clip.seen].phrase in text and clip.background in text
        assert all(stamps[clip.heard].phrase in text for text in own.audio)
        assert stamps[clip.said].phrase in own.subtitle and clip.number in own.subtitle.split()
        assert len(set(own.omni)) == 4 and len(set(own.vision)) == 3 and len(set(own.audio)) == 3


def test_lengths_and_letters(quick_texts):
    _, texts = quick_texts
    for own in texts.values():
        sentences = (*own.omni, *own.vision, *own.audio, own.subtitle, *(q.answer for q in own.questions))
        assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz ") for text in sentences)
        assert max(len(text.split()) for text in own.omni) <= 25 and len(own.subtitle.split()) <= 20
        assert max(len(q.answer.split()) for q in own.questions) <= 7


def test_texts_are_deterministic(quick_texts, stamps):
    clips, texts = quick_texts
    assert all(write_texts(clip, stamps, 0) == texts[clip.clip_id] for clip in clips[:50])
    assert any(write_texts(clip, stamps, 1) != texts[clip.clip_id] for clip in clips[:5])


def test_question_types(quick_texts, stamps):
    clips, texts = quick_texts
    for clip in clips:
        facts_of = {"vision": {stamps[clip.seen].noun, clip.motion, clip.background}, "audio": {stamps[clip.heard].noun}}
        facts_of["subtitle"] = {stamps[clip.said].noun, clip.number}
        for question in texts[clip.clip_id].questions:
            if question.question_type in facts_of:
                assert question.answer in facts_of[question.question_type]
            else:
                role = {"vision": "seen", "audio": "heard", "subtitle": "said"}
                nouns = [stamps[getattr(clip, role[track])].noun for track in question.question_type.split("_")]
                assert question.answer == " and ".join(nouns)
    train = Counter(q.question_type for clip in clips if clip.split == "train" for q in texts[clip.clip_id].questions)
    assert train["vision"] == train["audio"] == train["subtitle"] == 2400
    assert min(train.values()) > 600 and len(train) == 6


def test_grammar_of_small_words(stamps):
    assert counted("one", "day") == "one day" and counted("six", "day") == "six days"
    for stamp in stamps.values():
        article, noun = stamp.phrase.split(" ", 1)
        assert article in ("a", "an", "the") and noun == stamp.noun
        if article != "the" and noun != "european bear":
            assert (article == "an") == (noun[0] in "aeiou"), stamp.phrase


# --- vocabulary ------------------------------------------------------------------------------------------------------------


def test_vocabulary_layout_and_whole_words(quick_texts, stamps, tmp_path):
    clips, texts = quick_texts
    corpus = training_texts(annotation_files(clips, texts, stamps))
    tokens = train_vocabulary(corpus, 1000)
    assert tokens[0] == "[PAD]" and tokens[100:104] == ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert all(tokens[i].startswith("[unused") for i in (*range(1, 100), 104, 105)) and not tokens[106].startswith("[")
    assert len(set(tokens)) == len(tokens) <= 1000
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(tokens) + "\n")
    tokenizer = BertWordPieceTokenizer(str(path), lowercase=True)
    for text in corpus[:3000]:
        words = text.replace("?", " ?").split()
        assert tokenizer.encode(text, add_special_tokens=False).tokens == words
    assert "[UNK]" not in tokenizer.encode("an unforeseen word, isn't it? 42").tokens


def test_vocabulary_by_hand():
    tokens = train_vocabulary(["bab bab bab", "ba"], 200)
    learnt = tokens[tokens.index("##9") + 1:]
    # Whole words by frequency first; then b+##a (4 times, gives "ba", known already), then ba+##b ("bab", known).
    assert learnt == ["bab", "ba"]
    assert train_vocabulary(["ba", "bab", "bab bab"], 200) == tokens
    with pytest.raises(ValueError, match="too small"):
        train_vocabulary(["a"], 120)
