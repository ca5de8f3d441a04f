"""The OmniStamps builder: splits, ceilings, texts, vocabulary, media, and going on after a kill."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from itertools import combinations

import av
import numpy as np
import pytest
from tokenizers import BertWordPieceTokenizer

from corpus.omnistamps import facts
from corpus.omnistamps.__main__ import main
from corpus.omnistamps.annotations import annotation_files, training_texts
from corpus.omnistamps.build import SOURCE, BuildError, build
from corpus.omnistamps.ceilings import ceilings
from corpus.omnistamps.compose import COLOURS, Job, frames_of, sound_of
from corpus.omnistamps.facts import Clip, Entities, SourceError, draw_clips, entities_of, read_stamps, size_named
from corpus.omnistamps.texts import AUDIO, OMNI, SUBTITLES, VISION, counted, write_texts
from corpus.omnistamps.vocabulary import train_vocabulary


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


@pytest.fixture(scope="module")
def debug_set(tmp_path_factory):
    return build("debug", tmp_path_factory.mktemp("omnistamps") / "debug", workers=1)


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


# --- media and files -------------------------------------------------------------------------------------------------------


def _decode(path):
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.rate, stream.layout.name, stream.codec_context.name) == (16000, "mono", "aac")
        assert container.streams.video[0].codec_context.name == "h264"
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return np.stack(frames), sound


def test_decoded_media(debug_set):
    truth = json.loads((debug_set / "clips.json").read_text())
    assert len(truth) == 44
    for row in truth[::8]:
        frames, sound = _decode(debug_set / "clips" / f"{row['clip_id']}.mp4")
        assert frames.shape == (16, 128, 128, 3)
        assert 1.95 <= len(sound) / 16000 <= 2.2 and np.sqrt(np.mean(sound**2)) > 0.005
        corner = np.median(frames[:, :6, :6].reshape(-1, 3), axis=0)
        nearest = min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - corner).sum())
        assert nearest == row["background"]


def _centres(motion):
    job = Job("x", "images/cow.png", motion, "blue", "sounds/cow.ogg", 5)
    frames = frames_of(job, str(SOURCE), np.random.default_rng(5)).astype(int)
    masks = np.abs(frames - np.array(COLOURS["blue"])).sum(-1) > 120
    places = [np.argwhere(mask) for mask in masks]
    assert min(len(place) for place in places) > 1500, "the stamp is large in every frame"
    return np.array([place.mean(0) for place in places]), np.array([len(place) for place in places])


@pytest.mark.parametrize("motion,axis,sign", [("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)])
def test_the_stamp_moves_as_told(motion, axis, sign):
    centres, _ = _centres(motion)
    shift = centres[-1] - centres[0]
    assert sign * shift[axis] > 25 and abs(shift[1 - axis]) < 8


def test_the_stamp_grows_and_shrinks():
    _, growing = _centres("growing")
    _, shrinking = _centres("shrinking")
    assert growing[-1] > 2 * growing[0] and shrinking[0] > 2 * shrinking[-1]


def test_sound_depends_on_its_seed_alone():
    job = Job("x", "images/cow.png", "left", "blue", "sounds/dog.ogg", 5)
    first, again, other = (sound_of(job, str(SOURCE), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (32000,) and np.array_equal(first, again) and not np.array_equal(first, other)


def test_annotation_formats(debug_set):
    def read(name):
        return json.loads((debug_set / name).read_text())

    row = read("pretrain_train.json")[0]
    assert list(row) == ["clip_id", "vision_cap", "audio_cap", "vast_cap", "subtitle"]
    assert isinstance(row["vision_cap"], list) and isinstance(row["vast_cap"], str)
    for split, count in size_named("debug").clips.items():
        retrieval, caption = read(f"ret_{split}.json"), read(f"cap_{split}.json")
        assert len(retrieval) == len(caption) == count
        assert isinstance(retrieval[0]["desc"], str) and len(caption[0]["desc"]) >= 3
        assert all((debug_set / "clips" / f"{row['video_id']}.mp4").stat().st_size for row in retrieval)
    train, test = read("qa_train.json"), read("qa_test.json")
    assert all(isinstance(row["question"], str) and row["subtitle"] for row in train)
    assert all(len(row["question"]) == len(row["answer"]) == len(row["question_type"]) for row in test)
    references = read("cap_test_references.json")
    own = {image["id"] for image in references["images"]}
    assert own == {row["video_id"] for row in test} == {a["image_id"] for a in references["annotations"]}
    assert set(read("ceilings.json")) == {"clips", "chance", "v", "a", "s", "va", "vs", "as", "vas"}


def test_a_finished_set_is_reused(debug_set, caplog):
    before = {path: path.stat().st_mtime_ns for path in debug_set.rglob("*")}
    with caplog.at_level(logging.INFO, "omnivast"):
        build("debug", debug_set, workers=1)
    assert "reusing the finished set" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in debug_set.rglob("*")}


def test_an_interrupted_build_goes_on_and_ends_the_same(debug_set, tmp_path, monkeypatch, caplog):
    done = 0

    def stop_after_ten(job, source, folder):
        nonlocal done
        if done == 10:
            (tmp_path / "set" / "clips" / ".left.1.tmp").write_bytes(b"half a clip")
            raise KeyboardInterrupt
        done += 1
        return real(job, source, folder)

    from corpus.omnistamps import build as module

    real = module.compose
    monkeypatch.setattr(module, "compose", stop_after_ten)
    with pytest.raises(KeyboardInterrupt):
        build("debug", tmp_path / "set", workers=1)
    monkeypatch.setattr(module, "compose", real)
    assert not (tmp_path / "set" / "build.json").exists()
    (tmp_path / "set" / "clips" / "train00003.mp4").write_bytes(b"")
    with caplog.at_level(logging.INFO, "omnivast"):
        build("debug", tmp_path / "set", workers=1)
    assert "reusing 9 finished clips, 35 to make" in caplog.text
    first, second = (json.loads((folder / "build.json").read_text()) for folder in (debug_set, tmp_path / "set"))
    assert first == second
    assert not list((tmp_path / "set" / "clips").glob(".*")) and not (tmp_path / "set" / "building.json").exists()


def test_a_damaged_set_is_mended(tmp_path, debug_set):
    folder = build("debug", tmp_path / "set", workers=1)
    (folder / "clips" / "test00001.mp4").unlink()
    (folder / "vocab.txt").write_text("nothing")
    build("debug", folder, workers=1)
    assert (folder / "build.json").read_text() == (debug_set / "build.json").read_text()
    assert (folder / "vocab.txt").read_text() == (debug_set / "vocab.txt").read_text()


def test_clips_that_were_changed_are_made_again(tmp_path, debug_set, caplog):
    mine = tmp_path / "mine"
    shutil.copytree(debug_set, mine)
    (mine / "clips" / "test00003.mp4").write_bytes((mine / "clips" / "test00004.mp4").read_bytes())
    build("debug", mine, workers=1)
    assert "some clips are not those that were built" in caplog.text
    assert (mine / "clips" / "test00003.mp4").read_bytes() == (debug_set / "clips" / "test00003.mp4").read_bytes()
    assert (mine / "build.json").read_text() == (debug_set / "build.json").read_text()


def test_the_number_of_workers_does_not_matter(debug_set, tmp_path, monkeypatch):
    from corpus.omnistamps import build as module

    monkeypatch.setattr(module, "_FEW", 1)
    folder = build("debug", tmp_path / "set", workers=2)
    assert (folder / "build.json").read_text() == (debug_set / "build.json").read_text()


def test_another_seed_or_size_is_refused(debug_set):
    with pytest.raises(BuildError, match=r"holds another set: seed 0 \(asked: 1\).*--fresh"):
        build("debug", debug_set, seed=1)
    with pytest.raises(BuildError, match=r"size 'debug' \(asked: 'quick'\)"):
        build("quick", debug_set)


def test_fresh_replaces_but_never_foreign_files(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match="did not write"):
        build("debug", tmp_path / "mine", fresh=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    with pytest.raises(BuildError, match="is a file"):
        build("debug", tmp_path / "mine" / "thesis.txt")
    folder = build("debug", tmp_path / "set", workers=1)
    build("debug", folder, seed=1, workers=1, fresh=True)
    assert json.loads((folder / "build.json").read_text())["seed"] == 1


def test_command_line(debug_set, tmp_path, capsys):
    assert main(["--size", "debug", "--output", str(debug_set), "--workers", "1"]) == 0
    assert main(["--size", "debug", "--output", str(debug_set), "--seed", "9"]) == 1
    assert "--fresh" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--size", "huge", "--output", str(tmp_path / "x")])
