"""Conversations about OmniStamps clips: what is asked, what is answered, and what no training conversation gives away."""

from __future__ import annotations

from collections import Counter

import av
import numpy as np
import pytest

from omnivast.config.tasks import Modality
from omnivast.corpus.omnistamps.annotations import annotation_files
from omnivast.corpus.omnistamps.build import SOURCE
from omnivast.corpus.omnistamps.compose import encode
from omnivast.corpus.omnistamps.conversations import CANNOT, GIVEN, IS_IT, TRACK_OF, WITHOUT, Writer, blind
from omnivast.corpus.omnistamps.converse import ConversationError, write
from omnivast.corpus.omnistamps.facts import draw_clips, entities_of, read_stamps, size_named
from omnivast.corpus.omnistamps.swap import swap
from omnivast.corpus.omnistamps.texts import QUESTIONS, write_texts
from omnivast.data.conversation import read_conversation

FACT_ASKED = {question: fact for fact, questions in QUESTIONS.items() for question in questions}


@pytest.fixture(scope="module")
def quick():
    """(the clips of the quick set, a writer for them)"""
    stamps, size = read_stamps(SOURCE), size_named("quick")
    clips = draw_clips(entities_of(size, stamps), size.clips, 0, size.cells)
    texts = {clip.clip_id: write_texts(clip, stamps, 0) for clip in clips}
    rows = annotation_files(clips, texts, stamps)["clips.json"]
    return rows, Writer(rows, {i: t.subtitle for i, t in texts.items()}, {s.noun: s.phrase for s in stamps.values()})


def _turns(rows):
    return [(row, question, answer) for row in rows for question, answer in zip(row["question"], row["answer"])]


def _asked(question):
    """The facts, joined by blanks, that a question asks for."""
    if question in FACT_ASKED:
        return FACT_ASKED[question]
    return next(fact for fact, wordings in IS_IT.items() for w in wordings if question.startswith(w.split("{")[0]) and
                question.endswith(w.split("}")[1]))


def _truth(rows):
    return {row["clip_id"]: row for row in rows}


def test_answers_are_the_facts_of_the_tracks_that_are_given(quick):
    clips, writer = quick
    truth = _truth(clips)
    for row, question, answer in _turns([row for row in writer.training() + writer.tests("test") if row["type"] != "describe"]):
        facts, clip = _asked(question).split(), truth[row["video_id"]]
        missing = [TRACK_OF[fact] for fact in facts if TRACK_OF[fact] not in row["modality"]]
        if missing:
            assert answer == WITHOUT[missing[0]]
        elif question in FACT_ASKED:
            assert answer == " and ".join(clip[fact] for fact in facts)
        else:
            assert answer == ("yes" if question in [w.format(writer.phrases[clip[facts[0]]]) for w in IS_IT[facts[0]]] else "no")


def test_it_cannot_be_told_only_where_the_track_is_missing(quick):
    for row in quick[1].tests("test"):
        assert row["answer"][0].startswith(CANNOT) == row["type"].startswith("cannot"), row


def test_yes_and_no_are_balanced_also_where_something_else_is_there(quick):
    counts = Counter(answer for _, _, answer in _turns(quick[1].training(2)) if answer in ("yes", "no"))
    assert counts["yes"] + counts["no"] > 1000 and abs(counts["yes"] - counts["no"]) < 0.1 * counts.total()


def test_a_conversation_asks_for_each_fact_once(quick):
    for row in quick[1].training():
        if row["type"] != "describe":
            facts = [fact for question in row["question"] for fact in _asked(question).split()]
            assert len(facts) == len(set(facts)), row


def test_tracks_are_given_as_often_as_they_should(quick):
    rows = quick[1].training()
    counts = Counter(row["modality"] for row in rows)
    assert {given: round(16 * count / len(rows), 1) for given, count in counts.items()} == pytest.approx(GIVEN)


def test_no_combination_of_a_test_clip_is_trained(quick):
    clips, writer = quick
    truth = _truth(clips)
    pairs = {split: {(c["seen"], c["heard"]) for c in clips if c["split"] == split} for split in ("train", "test")}
    assert {truth[row["video_id"]]["split"] for row in writer.training() + writer.captions() + writer.scenes()} == {"train"}
    assert {truth[row["video_id"]]["split"] for row in writer.tests("test")} == {"test"}
    assert not pairs["train"] & pairs["test"]
    together = {answer for row, question, answer in _turns(writer.training(2)) if " " in _asked_or_none(question)}
    asked = {row["answer"][0] for row in writer.tests("test") if row["type"] in ("seen_heard", "all")}
    assert together and asked and not together & asked


def _asked_or_none(question):
    return FACT_ASKED.get(question, "")


def test_the_rows_are_read_as_conversations(quick):
    row = next(row for row in quick[1].training() if row["modality"] == "vas")
    read = read_conversation(row, "row 0")
    assert read.modalities == {Modality.VISION, Modality.AUDIO, Modality.SUBTITLE} and read.answers == tuple(row["answer"])
    assert read_conversation(blind([row])[0], "row 0").modalities == frozenset()


def test_blind_rows_have_the_same_texts_and_nothing_else(quick):
    rows = quick[1].training()[:50]
    unseen = blind(rows)
    assert [(r["question"], r["answer"]) for r in unseen] == [(r["question"], r["answer"]) for r in rows]
    assert {r["modality"] for r in unseen} == {""} and not any("subtitle" in r for r in unseen)


def test_descriptions_name_what_is_given_and_nothing_else(quick):
    clips, writer = quick
    truth = _truth(clips)
    for row in writer.captions()[:300]:
        clip, text = truth[row["video_id"]], row["answer"][0]
        assert (writer.phrases[clip["seen"]] in text, writer.phrases[clip["heard"]] in text) == \
            ("v" in row["modality"], "a" in row["modality"])


def test_swapped_clips_sound_otherwise(quick):
    clips, writer = quick
    swapped = writer.swapped()
    assert len(swapped) == 400 and all(seen["heard"] != heard["heard"] for _, seen, heard in swapped)
    name, seen, heard = swapped[0]
    first, second = writer.swap_rows(swapped[:1])
    assert (first["answer"], first["other"], first["type"]) == ([seen["seen"]], heard["seen"], "swap.seen")
    assert (second["answer"], second["other"], second["type"]) == ([heard["heard"]], seen["heard"], "swap.heard")


def test_the_seed_decides(quick):
    clips, writer = quick
    others = Writer(clips, writer.subtitles, writer.phrases, seed=1)
    assert writer.training() == Writer(clips, writer.subtitles, writer.phrases).training() != others.training()


def test_a_swapped_clip_has_the_pictures_of_one_and_the_sound_of_the_other(tmp_path):
    for name, level, volume in (("a", 50, 0.0), ("b", 200, 0.5)):
        frames, sound = np.full((4, 32, 32, 3), level, np.uint8), volume * np.sin(np.arange(8000) * 0.2).astype(np.float32)
        (tmp_path / f"{name}.mp4").write_bytes(encode(frames, sound.astype(np.float32)))
    swap([("ab", "a", "b")], tmp_path, tmp_path / "swapped")
    with av.open(str(tmp_path / "swapped" / "ab.mp4")) as clip:
        assert abs(next(clip.decode(video=0)).to_ndarray(format="rgb24").mean() - 50) < 8
    with av.open(str(tmp_path / "swapped" / "ab.mp4")) as clip:
        loudest = max(abs(frame.to_ndarray()).max() for frame in clip.decode(audio=0))
    assert loudest > 0.2


def test_a_folder_without_a_set_is_named(tmp_path):
    with pytest.raises(ConversationError, match="ret_train.json: No such file or directory; expected a set made by"):
        write(tmp_path, tmp_path / "out")
    (tmp_path / "ret_train.json").write_text("[")
    with pytest.raises(ConversationError, match="ret_train.json: not JSON"):
        write(tmp_path, tmp_path / "out")
