"""Corpora of conversations, and captions and questions as conversations: rows → batches."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch

from omnivast.config.conversation import DESCRIBE, Turn
from omnivast.config.tasks import Modality, Objective
from omnivast.data.annotations.rows import AnnotationError
from omnivast.data.dataset import IndexedDataset
from omnivast.data.features import FeatureStore
from omnivast.data.joined import JoinedDataset
from omnivast.data.loader import EvalLoader, TrainLoader
from omnivast.data.mixture import Mixture
from omnivast.data.order import phases_of
from omnivast.data.spec import DataError
from omnivast.features import lacking
from tests.data.conftest import WordTokenizer, vast_rows
from tests.media_factory import write_wav

V, A, S = Modality.VISION, Modality.AUDIO, Modality.SUBTITLE


@dataclass
class Written:
    ids: list
    supervised: list


class Chat(WordTokenizer):
    """Words of turns; answers are learnt. Refuses what says "never"."""

    def converse(self, conversation, subtitle, frames, slices, where):
        words = [(turn.role, word) for turn in conversation.turns for word in turn.text.split()]
        if any(word == "never" for _, word in words):
            raise ValueError(f"{where}: never")
        return Written([frames, slices, int(bool(subtitle)), *(len(word) for _, word in words)],
                       [False] * 3 + [role == "assistant" for role, _ in words])


@pytest.fixture(scope="module")
def chat_spec(spec):
    return dataclasses.replace(spec, conversations=True)


def asked(clip, modality, question="what is it", answer="a cat", **more):
    return {"video_id": clip, "question": question, "answer": answer, "modality": modality, **more}


ROWS = [asked("clip0", "v"), asked("clip1", "a"), asked("clip2", "va"), asked("clip3", "va", type="yes/no", synonyms=["x"]),
        asked("clip4", "")]


def chats(corpus, rows, **changes):
    return corpus.config(txt=corpus.annotate("chat.json", rows), **{"task": "chat%tva", **changes})


def test_rows_are_read_with_the_tracks_that_they_are_about(corpus, chat_spec):
    corpora = TrainLoader([chats(corpus, ROWS, batch_size=5, epoch=1)], chat_spec, Chat(), seed=0)
    [batch] = corpora
    place = {clip: number for number, clip in enumerate(batch.clip_ids)}
    order = [place[f"clip{i}"] for i in range(5)]
    assert batch.present[V][order].tolist() == [True, False, True, True, False]
    assert batch.present[A][order].tolist() == [False, True, True, False, False]  # clip3 is silent
    assert batch.frames.shape == (5, 2, 3, 32, 32) and not batch.frames[order[1]].any() and batch.frames[order[0]].any()
    assert not batch.spectrograms[order[0]].any() and batch.spectrograms[order[1]].any()
    assert batch.absent == {V: [], A: ["clip3"]}  # of those that ask for it
    given = {batch.clip_ids[clip]: ids[:2] for clip, ids in zip(batch.chats.clip.tolist(), batch.chats.ids)}
    assert given == {"clip0": [2, 0], "clip1": [0, 1], "clip2": [2, 1], "clip3": [2, 0], "clip4": [0, 0]}
    assert batch.chats.learnt == 5 * 2 and batch.chats.rows[order[3]]["synonyms"] == ["x"]
    assert batch.chats.conversations[order[3]].type == "yes/no"


def test_sound_alone_needs_no_video(corpus, chat_spec, tmp_path):
    """A row about sound of a clip that has no video; LLaVA's form names a file."""
    write_wav(tmp_path / "only.wav")
    turns = [{"from": "human", "value": "<audio>\nwhat?"}, {"from": "gpt", "value": "rain"}]
    row = {"id": "7", "audio": "only.wav", "conversations": turns}
    config = chats(corpus, [row], audio=str(tmp_path), batch_size=1, epoch=1)
    [batch] = TrainLoader([config], chat_spec, Chat(), seed=0)
    assert batch.clip_ids == ["only"] and batch.frames is None and batch.present[A].tolist() == [True] and V not in batch.present


def test_subtitles_are_given_where_row_and_task_ask(corpus, chat_spec):
    rows = [asked("clip0", "vs", subtitle="words"), asked("clip1", "v", subtitle="words"), {**asked("clip2", "v", subtitle="words")}]
    del rows[2]["modality"]
    dataset = IndexedDataset(chats(corpus, rows, task="chat%tvs"), chat_spec, seed=0, training=True)
    assert [S in dataset.read(0, row).conversations[0].modalities for row in range(3)] == [True, False, True]
    with pytest.raises(AnnotationError, match=r"row 0 \(id 'clip0'\) is about subtitle, which task 'chat%tv' does not read; add s"):
        IndexedDataset(chats(corpus, rows, task="chat%tv"), chat_spec, seed=0, training=True)
    IndexedDataset(chats(corpus, rows[1:], task="chat%tv"), chat_spec, seed=0, training=True)


def test_captions_are_learnt_of_each_group_by_its_kind(corpus, chat_spec):
    for task in ("cap%tva%tv%ta", "chat%tva%tv%ta"):
        dataset = IndexedDataset(corpus.config(task=task), chat_spec, seed=0, training=True)
        spoken = dataset.sample(3, 2).conversations
        assert [conversation.modalities for conversation in spoken] == [{V, A}, {V}, {A}]
        assert [c.turns[0] for c in spoken] == [Turn("user", DESCRIBE[key]) for key in ("va", "v", "a")]
        words = [conversation.turns[1].text.split()[0] for conversation in spoken]
        assert words == ["omni", "seen", "heard"]
    assert len({dataset.sample(position, 2).conversations[1].turns[1].text for position in range(8)}) > 1
    tested = IndexedDataset(corpus.config(task="cap%tva"), chat_spec, seed=0, training=False)
    assert tested.read(0, 2).conversations == []


def test_questions_of_a_clip_are_turns_of_one_conversation(corpus, chat_spec):
    rows = [{"clip_id": "clip0", "question": ["who", "what"], "answer": ["he", "that"]},
            {"clip_id": "clip1", "question": "how many", "answer": ["1", "2", "2"]}]  # three people were asked
    config = corpus.config(task="qa%tv%tva", txt=corpus.annotate("qa.json", rows))
    dataset = IndexedDataset(config, chat_spec, seed=0, training=True)
    one, other = dataset.sample(0, 0).conversations
    assert [turn.text for turn in one.turns] == ["who", "he", "what", "that"] == [turn.text for turn in other.turns]
    assert (one.modalities, other.modalities) == ({V}, {V, A})
    answers = {conversation.turns[1].text for position in range(20) for conversation in dataset.sample(position, 1).conversations}
    assert answers == {"1", "2"} and all(len(c.turns) == 2 for c in dataset.sample(0, 1).conversations)


def test_what_cannot_be_learnt_is_named_before_training(corpus, chat_spec):
    rows = [*ROWS, asked("clip5", "v", answer="never")]
    with pytest.raises(DataError, match=r"chat.json: row 5 \(id 'clip5'\): never"):
        TrainLoader([chats(corpus, rows)], chat_spec, Chat(), seed=0)
    with pytest.raises(AnnotationError, match="row 1 .id 'clip1'. is about audio, which task 'chat%tv' does not read; add a to its group"):
        IndexedDataset(chats(corpus, ROWS, task="chat%tv"), chat_spec, seed=0, training=True)
    with pytest.raises(AnnotationError, match="row 0 .id 'clip0'. has no conversation; expected one of messages"):
        IndexedDataset(chats(corpus, [{"video_id": "clip0"}]), chat_spec, seed=0, training=True)
    with pytest.raises(AnnotationError, match="expected the files of one clip, with names that differ in their extension alone"):
        IndexedDataset(chats(corpus, [{"video": "a.mp4", "audio": "b.wav", "question": "q", "answer": "a"}]), chat_spec, seed=0,
                       training=True)


def test_a_test_has_the_rows_as_they_are(corpus, chat_spec):
    loader = EvalLoader(chats(corpus, ROWS, batch_size=3), chat_spec, Chat())
    batches = list(loader)
    assert [clip for batch in batches for clip in batch.clip_ids] == [row["video_id"] for row in ROWS]
    assert [row for batch in batches for row in batch.chats.rows] == ROWS and batches[0].chats.ids == []
    assert loader.glance() == [] and loader.task.objectives == (Objective.CHAT,)


# --------------------------------------------------------------------------------------------------------------------- order


def phased(corpus, chat_spec, order):
    rows = [asked(f"clip{i % 8}", "va" if i < 4 else "v" if i < 8 else "a", question=f"q{i}") for i in range(12)]
    loader = TrainLoader([chats(corpus, rows, batch_size=3, epoch=2, steps=None)], chat_spec, Chat(), seed=0, order=order)
    return [row for step in range(loader.total_steps) for _, _, row in loader.keys(step, 0)]


def test_rows_about_both_tracks_come_first_or_last(corpus, chat_spec):
    """Over the whole training, each row as often as when they are mixed."""
    for order in ("mixed", "joint_first", "single_first"):
        rows = phased(corpus, chat_spec, order)
        assert len(rows) == 24 and all(rows.count(row) == 2 for row in range(12))
        joint = [row < 4 for row in rows]
        expected = {"joint_first": [True] * 8 + [False] * 16, "single_first": [False] * 16 + [True] * 8}
        assert (joint == expected[order]) if order in expected else 0 < sum(joint[:12]) < 8
    assert phased(corpus, chat_spec, "joint_first")[:4] != phased(corpus, chat_spec, "joint_first")[4:8]


def test_an_order_needs_conversations_of_both_kinds(corpus, chat_spec):
    captions = IndexedDataset(corpus.config(task="cap%tva"), chat_spec, seed=0, training=True)
    with pytest.raises(DataError, match="run_cfg.modality_order joint_first needs rows of conversations"):
        phases_of(captions, "joint_first")
    alone = IndexedDataset(chats(corpus, ROWS[2:4], joined="all"), chat_spec, seed=0, training=True)
    with pytest.raises(DataError, match="has nothing to order: all of its rows are about both"):
        phases_of(alone, "single_first")
    single = IndexedDataset(chats(corpus, ROWS[:2], name="b", joined="all"), chat_spec, seed=0, training=True)
    assert [part.tolist() for part in phases_of(JoinedDataset("all", [alone, single]), "single_first")] == [[2, 3], [0, 1]]


def test_a_longer_run_goes_on_with_the_last_phase(corpus, chat_spec):
    loader = TrainLoader([chats(corpus, ROWS[:4], batch_size=4, epoch=1)], chat_spec, Chat(), seed=0, order="joint_first")
    longer = Mixture(loader.corpora, seed=0, plan=[[1], [3]])
    assert [sorted(row for _, row in longer.batch(step, 0)[1]) for step in range(3)] == [[0, 1, 2, 3], [0, 0, 1, 1], [0, 0, 1, 1]]


# ------------------------------------------------------------------------------------------------------------- kept features


def test_kept_features_are_read_in_place_of_media(corpus, chat_spec, tmp_path):
    store = FeatureStore(tmp_path / "features")
    store.keys = {V: "eye", A: "ear"}
    spec = dataclasses.replace(chat_spec, features=store)
    dataset = IndexedDataset(chats(corpus, ROWS), spec, seed=0, training=True)
    assert lacking([dataset], store) == [(0, 0), (0, 1), (0, 2), (0, 3)]  # not the one of text alone
    for row in range(4):
        for modality, read_as in dataset.reader_of(row).read_as(f"clip{row}").items():
            store.write(modality, read_as, {f"of {modality.word}": torch.full((2, 3), row + 0.5)} if (row, modality) != (3, A) else {})
    assert lacking([dataset], store) == []
    sample = dataset.sample(7, 2)
    assert sample.frames is None and sample.spectrogram is None and sample.present == {V: True, A: True}
    assert sample.features["of audio"].dtype == torch.float16 and sample.features["of vision"].eq(2.5).all()
    assert (sample.frame_count, sample.slice_count) == (2, 1)
    assert dataset.sample(7, 3).present == {V: True, A: False}
    batch = next(iter(TrainLoader([chats(corpus, ROWS, batch_size=5, epoch=1)], spec, Chat(), seed=0)))
    assert batch.features["of vision"].shape == (5, 2, 3) and batch.frames is None
    assert not batch.features["of vision"][batch.clip_ids.index("clip1")].any()
    store.keys = {V: "another eye", A: "ear"}
    assert lacking([dataset], store) == [(0, 0), (0, 2), (0, 3)]
    clip_id, reason = dataset.read(0, 0)
    assert clip_id == "clip0" and "its features of vision are not in" in reason
    other = IndexedDataset(chats(corpus, ROWS, vision_sample_num=3), spec, seed=0, training=True)
    store.keys = {V: "eye", A: "ear"}
    assert lacking([other], store) == [(0, 0), (0, 2), (0, 3)]


def test_kept_features_and_random_crops_exclude_each_other(corpus, chat_spec, tmp_path):
    spec = dataclasses.replace(chat_spec, features=FeatureStore(tmp_path))
    with pytest.raises(DataError, match="vision_transforms 'crop_flip' would have no effect"):
        IndexedDataset(chats(corpus, ROWS, vision_transforms="crop_flip"), spec, seed=0, training=True)


def test_other_models_have_captions_as_before(corpus, spec):
    sample = IndexedDataset(corpus.config(), spec, seed=0, training=True).sample(0, 1)
    assert sample.conversations == [] and sample.row is None and len(vast_rows()) == 8
