import dataclasses

import pytest
import torch

from omnivast.config.tasks import CaptionKind, Modality
from omnivast.data.annotations.rows import AnnotationError
from omnivast.data.batch import Sample, collate
from omnivast.data.dataset import CORPORA, IndexedDataset
from omnivast.data.spec import DataError, UnreadableError
from tests.data.conftest import vast_rows
from tests.data.sharding import sharded
from tests.media_factory import frame_of, write_frames, write_image, write_video, write_wav


def build(config, spec, training=True, seed=0):
    return IndexedDataset(config, spec, seed=seed, training=training)


def equal(one, other):
    return (
        one.captions == other.captions
        and torch.equal(one.frames, other.frames)
        and torch.equal(one.spectrogram, other.spectrogram)
        and one.present == other.present
    )


def test_a_training_sample(corpus, spec):
    sample = build(corpus.config(), spec).sample(0, 2)
    assert sample.clip_id == "clip2" and sample.index == 2
    assert sample.frames.shape == (2, 3, 32, 32) and sample.frames.dtype == torch.uint8
    assert sample.spectrogram.shape == (1, 64, 16) and sample.spectrogram.abs().sum() > 0
    assert sample.subtitle == "said 2" and all(sample.present.values())
    assert {kind: len(texts) for kind, texts in sample.captions.items()} == dict.fromkeys(CaptionKind, 1)


def test_draws_depend_on_seed_and_position_alone(corpus, spec):
    config = corpus.config(vision_sample_num=3)
    dataset = build(config, spec)
    assert equal(dataset.sample(5, 2), build(config, spec).sample(5, 2))
    others = [dataset.sample(position, 2) for position in range(6)]
    assert len({sample.captions[CaptionKind.VISION][0] for sample in others}) > 1
    assert len({tuple(sample.frames.flatten(1).float().mean(1).tolist()) for sample in others}) > 1
    seeds = {build(config, spec, seed=seed).sample(0, 2).captions[CaptionKind.AUDIO][0] for seed in range(6)}
    assert len(seeds) > 1


def test_evaluation_takes_the_middle_frames_and_all_texts(corpus, spec):
    dataset = build(corpus.config(), spec, training=False)
    sample = dataset.read(0, 2)
    assert [frame_of(frame.float().mean().item(), 8) for frame in sample.frames] == [1, 5]
    assert len(sample.captions[CaptionKind.VISION]) == 5 and len(sample.captions[CaptionKind.OMNI]) == 1
    assert equal(sample, dataset.read(99, 2))


def test_a_missing_track_is_zeros_and_said(corpus, spec):
    dataset = build(corpus.config(), spec)
    silent = dataset.sample(0, 3)
    assert silent.present[Modality.AUDIO] is False and silent.spectrogram.shape == (1, 64, 16) and silent.spectrogram.eq(0).all()
    wordless = dataset.sample(0, 0)
    assert wordless.present[Modality.SUBTITLE] is False and wordless.subtitle == ""


def test_only_what_the_task_needs_is_read(corpus, spec):
    sample = build(corpus.config(task="ret%ts"), spec).sample(0, 1)
    assert sample.frames is None and sample.spectrogram is None and list(sample.present) == [Modality.SUBTITLE]
    assert list(sample.captions) == [CaptionKind.OMNI]
    sample = build(corpus.config(task="ret%ta"), spec).sample(0, 1)
    assert sample.frames is None and sample.spectrogram is not None and list(sample.captions) == [CaptionKind.AUDIO]


def test_folders_of_frames_images_and_sound_files(tmp_path, corpus, spec):
    for i in range(3):
        write_frames(tmp_path / "frames" / f"clip{i}", frames=5, size=32)
        write_image(tmp_path / "images" / f"clip{i}.jpg", (50, 40))
        write_wav(tmp_path / "sounds" / f"clip{i}.wav")
    txt = corpus.annotate("three.json", vast_rows(3))
    shared = {"txt": txt, "audio": str(tmp_path / "sounds"), "task": "ret%tva"}
    frames = build(corpus.config(**shared, vision=str(tmp_path / "frames"), vision_format="video_frame"), spec, training=False).read(0, 1)
    assert [frame_of(frame.float().mean().item(), 5) for frame in frames.frames] == [1, 3] and frames.present[Modality.AUDIO]
    image = build(corpus.config(**shared, vision=str(tmp_path / "images"), vision_format="image_rawimage"), spec).sample(0, 1)
    assert image.frames.shape == (2, 3, 32, 32) and torch.equal(image.frames[0], image.frames[1]) and image.present[Modality.AUDIO]


def test_sound_files_go_before_the_videos_own_sound(tmp_path, corpus, spec):
    write_wav(tmp_path / "clip3.wav")
    txt = corpus.annotate("one.json", vast_rows()[3:4])
    assert build(corpus.config(txt=txt, audio=str(tmp_path)), spec).sample(0, 0).present[Modality.AUDIO]


def test_a_clip_without_a_file_in_the_sound_folder_is_silent(tmp_path, corpus, spec, caplog):
    """As in the release: what extracts the sound of a silent video writes no file. Where sound is all there is, it is missing."""
    write_wav(tmp_path / "clip0.wav")
    shared = {"txt": corpus.annotate("two.json", vast_rows(2)), "audio": str(tmp_path)}
    for training in (True, False):
        caplog.clear()
        dataset = build(corpus.config(**shared, task="ret%tva"), spec, training=training)
        (told,) = caplog.messages
        assert told.startswith(f"dataset 'clips': 1 of 2 clips have no file in the audio folder '{tmp_path}' and count as silent, "
                               "'clip1' first: ") and "no such file" in told
    heard, silent = dataset.read(0, 0), dataset.read(1, 1)
    assert heard.present[Modality.AUDIO] and not silent.present[Modality.AUDIO]
    assert silent.frames is not None and silent.spectrogram.shape == heard.spectrogram.shape and not silent.spectrogram.any()
    clip_id, reason = build(corpus.config(**shared, task="ret%ta"), spec, training=False).read(1, 1)
    assert clip_id == "clip1" and "no such file" in reason


def test_clips_of_shards_without_a_row_and_rows_without_a_clip_are_told(corpus, packed, spec, caplog):
    rows = vast_rows(4)
    rows[2]["clip_id"] = "elsewhere"
    with caplog.at_level("INFO", "omnivast"):
        build(sharded(corpus, packed, txt=corpus.annotate("some.json", rows)), spec)
    assert "1 of 4 clips lie in no shard, 'elsewhere' first" in caplog.text
    assert "5 of the 8 clips of its shards have no row" in caplog.text


@pytest.fixture
def broken(tmp_path, corpus):
    """Clips 1 and 2 of four are damaged."""
    for i in range(4):
        write_video(tmp_path / f"clip{i}.mp4", frames=2, size=32)
    (tmp_path / "clip1.mp4").write_bytes(b"")
    (tmp_path / "clip2.mp4").write_bytes(b"no video at all")
    return corpus.config(txt=corpus.annotate("four.json", vast_rows(4)), vision=str(tmp_path))


def test_unreadable_clips_are_replaced_in_training_and_listed(broken, spec):
    sample = build(broken, spec).sample(0, 1)
    assert sample.clip_id == "clip3" and sample.index == 3
    assert [clip_id for clip_id, _ in sample.unreadable] == ["clip1", "clip2"]
    assert "empty" in sample.unreadable[0][1] and "not a video" in sample.unreadable[1][1]


def test_a_folder_of_nothing_but_unreadable_clips_ends(broken, spec, tmp_path):
    dataset = build(broken, spec)
    for i in range(4):
        (tmp_path / f"clip{i}.mp4").write_bytes(b"")
    with pytest.raises(UnreadableError, match="dataset 'clips': 4 unreadable"):
        dataset.sample(0, 1)


def test_unreadable_clips_are_named_in_evaluation(broken, spec):
    clip_id, reason = build(broken, spec, training=False).read(0, 1)
    assert clip_id == "clip1" and "clip1.mp4" in reason and "empty" in reason


BAD_SETTINGS = {
    "tar shards": ({"type": "srcindexed"}, "give its tar files, folders of them, or patterns as 'shards'"),
    "task": ({"task": "ret%tvx"}, "unknown letter"),
    "no annotations": ({"txt": ""}, "as 'txt'"),
    "no vision folder": ({"vision": None, "task": "ret%tv"}, "'tv' of task 'ret%tv' needs vision, but 'vision', the folder .* is not set"),
    "no sound": ({"vision_format": "video_frame", "task": "ret%ta"}, "needs audio, .* is not set, and video_frame has no track"),
    "no sound at all": ({"vision": None, "task": "ret%ta"}, "needs audio, .* and no videos are named whose own track could serve"),
    "absent folder": ({"vision": "/no/such/folder"}, "vision folder '/no/such/folder' does not exist"),
    "absent sound folder": ({"audio": "/no/such/folder"}, "audio folder '/no/such/folder' does not exist"),
    "no frame number": ({"vision_sample_num": None}, "vision_sample_num"),
    "no slice number": ({"audio_sample_num": None}, "audio_sample_num"),
    "cache and crops": ({"cache_dir": "x", "vision_transforms": "crop_flip"}, "cache_dir.*crop_flip"),
    "decoder": ({"video_decoder": "decord"}, r'video_decoder .decord.*pip install "omnivast\[decord\]"'),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings(corpus, spec, case, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    changes, message = BAD_SETTINGS[case]
    with pytest.raises(DataError, match=message) as caught:
        build(corpus.config(**changes), spec)
    assert "dataset 'clips'" in str(caught.value)


def test_the_wrong_folder_is_noticed_at_once(corpus, spec, tmp_path):
    with pytest.raises(DataError, match=r"none of its first 8 clips is in the vision folder.*clip0, .*clip1"):
        build(corpus.config(vision=str(tmp_path)), spec)


def test_questions_are_drawn_in_pairs(corpus, spec):
    rows = [
        {"id": f"clip{i}", "question": ["q0", "q1", "q2"], "answer": ["0", "1", "2"], "question_type": ["a", "b", "c"]} for i in range(4)
    ]
    config = corpus.config(txt=corpus.annotate("qa.json", rows), task="qa%tv")
    dataset = build(config, spec)
    drawn = {(s.questions[0], s.answers[0], s.question_types[0]) for s in (dataset.sample(p, 0) for p in range(30))}
    assert drawn == {("q0", "0", "a"), ("q1", "1", "b"), ("q2", "2", "c")}
    assert build(config, spec, training=False).read(0, 0).answers == ["0", "1", "2"]
    with pytest.raises(AnnotationError, match="no caption"):
        build(corpus.config(txt=config.txt, task="qa%tv_cap%tv"), spec)


def test_collate_pads_to_the_longest_and_shares_captions(corpus, spec, tokenizer):
    rows = [{"id": "clip0", "desc": ["a b c d", "e"]}, {"id": "clip1", "desc": "f g"}]
    config = corpus.config(txt=corpus.annotate("plain.json", rows), task="ret%tv%tva")
    dataset = build(config, spec, training=False)
    samples = [dataset.read(0, row) for row in range(2)]
    batch = collate(samples, corpus="clips", tokenizer=tokenizer, lengths=dataset.lengths, task=dataset.task)
    texts = batch.captions[CaptionKind.OMNI]
    assert batch.captions.source(CaptionKind.VISION) is CaptionKind.OMNI and batch.captions.of(CaptionKind.VISION) is texts
    assert CaptionKind.AUDIO not in batch.captions
    assert texts.ids.shape == (3, 6) and texts.mask.sum(1).tolist() == [6, 3, 4] and texts.clip.tolist() == [0, 0, 1]
    assert texts.ids[1].tolist() == [101, 106 + ord("e"), 102, 0, 0, 0] and texts.raw == ["a b c d", "e", "f g"]
    with pytest.raises(ValueError, match="the batch has no audio captions; it has omni, vision"):
        batch.captions.of(CaptionKind.AUDIO)


def test_answers_travel_with_their_weights(corpus, spec, tokenizer):
    rows = [{"id": "clip0", "question": ["q"], "answer": ["a"]}]
    dataset = build(corpus.config(task="qa%tv", txt=corpus.annotate("one.json", rows)), spec)
    one, two, plain = (Sample(str(i), i, questions=["q"] * n, answers=["a"] * n, answer_weights=weights)
                       for i, (n, weights) in enumerate([(2, [1.0, 0.5]), (1, [0.25]), (1, [])]))

    def answers(*samples):
        return collate(samples, corpus="c", tokenizer=tokenizer, lengths=dataset.lengths, task=dataset.task).answers

    assert answers(one, plain, two).weights.tolist() == [1.0, 0.5, 1.0, 0.25] and answers(one, two).clip.tolist() == [0, 0, 1]
    assert answers(plain, plain).weights is None


def test_text_lengths_follow_the_kinds(corpus, spec, tokenizer):
    words = " ".join(["w"] * 50)
    rows = [{"clip_id": "clip0", "vast_cap": words, "vision_cap": words, "subtitle": words}]
    several = build(corpus.config(txt=corpus.annotate("long.json", rows), task="ret%tvs%tv"), spec, training=False)
    batch = collate([several.read(0, 0)], corpus="c", tokenizer=tokenizer, lengths=several.lengths, task=several.task)
    assert [batch.captions[k].ids.shape[1] for k in (CaptionKind.OMNI, CaptionKind.VISION)] == [20, 12] and batch.subtitles.ids.shape == (
        1,
        10,
    )
    plain = build(corpus.config(txt=corpus.annotate("long1.json", [{"id": "clip0", "desc": words}]), task="ret%tva"), spec, training=False)
    batch = collate([plain.read(0, 0)], corpus="c", tokenizer=tokenizer, lengths=plain.lengths, task=plain.task)
    assert batch.captions[CaptionKind.OMNI].ids.shape[1] == 12


def test_a_sample_without_a_kind_takes_its_omni_caption(corpus, spec, tokenizer):
    rows = [{"id": "clip0", "vast_cap": "o0", "vision_cap": "v0"}, {"id": "clip1", "vast_cap": "o1"}]
    for training in (True, False):
        dataset = build(corpus.config(txt=corpus.annotate("part.json", rows), task="ret%tv"), spec, training=training)
        samples = [dataset.read(0, row) for row in range(2)]
        assert all(isinstance(sample, Sample) for sample in samples)
        batch = collate(samples, corpus="c", tokenizer=tokenizer, lengths=dataset.lengths, task=dataset.task)
        assert batch.captions[CaptionKind.VISION].raw == ["v0", "o1"]


def test_where_clips_lie_is_found_by_name(corpus, spec, monkeypatch):
    with pytest.raises(DataError, match=r"dataset 'x': type: unknown kind of dataset 'srcindex'; valid are annoindexed, srcindexed, "
                                        r"valor\. Did you mean 'srcindexed'"):
        build(corpus.config(name="x", type="srcindex"), spec)
    opened = []
    monkeypatch.setattr(CORPORA, "_items", dict(CORPORA._items))

    @CORPORA.register("elsewhere")
    def _(config, training):
        opened.append((config.name, training))
        return CORPORA.find("annoindexed")(config, training)

    assert len(build(corpus.config(name="x", type="elsewhere"), spec)) and opened == [("x", True)]


def rejecting(corpus, **changes):
    rows = [{**row, "negatives": [f"wrong {n} of {row['clip_id']}" for n in range(row["clip_id"] > "clip1")]} for row in vast_rows()]
    rows[3]["negatives"] += ["another"]
    return corpus.config(txt=corpus.annotate("rejected.json", rows), **changes)


def test_rejected_captions_travel_with_their_clips(corpus, spec, tokenizer):
    dataset = build(rejecting(corpus), dataclasses.replace(spec, negatives=True))
    samples = [dataset.sample(position, position) for position in (2, 0, 3)]
    assert [sample.negatives for sample in samples] == [["wrong 0 of clip2"], [], ["wrong 0 of clip3", "another"]]
    batch = collate(samples, corpus="c", tokenizer=tokenizer, lengths=dataset.lengths, task=dataset.task)
    assert batch.negatives.raw == ["wrong 0 of clip2", "wrong 0 of clip3", "another"] and batch.negatives.clip.tolist() == [0, 2, 2]
    assert batch.negatives.ids.shape == batch.negatives.mask.shape == (3, 6)
    alone = collate(samples[1:2], corpus="c", tokenizer=tokenizer, lengths=dataset.lengths, task=dataset.task)
    assert alone.negatives is None


def test_rejected_captions_are_of_training_for_retrieval(corpus, spec):
    able = dataclasses.replace(spec, negatives=True)
    assert not build(rejecting(corpus), able, training=False).read(2, 2).negatives
    assert not build(rejecting(corpus, task="cap%tvas"), spec).sample(2, 2).negatives
    with pytest.raises(DataError, match=r"dataset 'clips': rows of .*rejected.json have rejected captions \('negatives'\), from which"):
        build(rejecting(corpus), spec)
    build(rejecting(corpus, ignore_fields=["negatives"]), spec)


def test_what_a_text_branch_reads(corpus, spec, tokenizer):
    rows = [{**row, "title": f"title of {row['clip_id']}", "description": " more " if row["clip_id"] > "clip1" else None}
            for row in vast_rows()]
    config = corpus.config(txt=corpus.annotate("told.json", rows), task="cap%tv")
    able = dataclasses.replace(spec, told_len=7)
    dataset = build(config, able, training=False)
    assert [dataset.read(0, row).told for row in (0, 1, 2)] == ["title: title of clip0", "title: title of clip1 subtitle: said 1",
                                                               "title: title of clip2 description: more subtitle: said 2"]
    samples = [dataset.read(0, row) for row in (2, 0)]
    batch = collate(samples, corpus="c", tokenizer=tokenizer, lengths=dataset.lengths, task=dataset.task)
    assert batch.told.mask.sum(1).tolist() == [7, 6] and batch.told.raw == [sample.told for sample in samples]
    assert build(config, spec).sample(0, 2).told is None
    assert build(corpus.config(task="cap%tv"), able, training=False).read(0, 0).told == ""


def test_titles_and_subtitles_are_each_left_out_of_half_of_the_training(corpus, spec):
    rows = [{**row, "title": "one", "description": "two"} for row in vast_rows()]
    config = corpus.config(txt=corpus.annotate("told.json", rows), task="cap%tv")
    able = dataclasses.replace(spec, told_len=50)
    dataset, again = build(config, able), build(config, able)
    drawn = [dataset._told(dataset.annotations[1], position) for position in range(400)]
    assert drawn == [again._told(again.annotations[1], position) for position in range(400)]
    about = "title: one description: two"
    counts = {text: drawn.count(text) for text in (f"{about} subtitle: said 1", about, "subtitle: said 1", "")}
    assert sum(counts.values()) == 400 and all(70 < count < 130 for count in counts.values())
    every = build(config, dataclasses.replace(able, told_dropped=0.0))
    assert {every._told(every.annotations[1], position) for position in range(50)} == {f"{about} subtitle: said 1"}
