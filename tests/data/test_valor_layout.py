"""Corpora in VALOR's layout: their clips, folders of frames beside videos, sound, and what is checked before a run."""

from __future__ import annotations

import json
import shutil

import pytest

from omnivast.config.schema import Config, DataConfig, ModelConfig, RunConfig
from omnivast.config.tasks import Modality
from omnivast.data.batch import collate
from omnivast.data.check.datasets import check
from omnivast.data.dataset import IndexedDataset
from omnivast.data.spec import DataError, InputSpec
from tests.media_factory import write_frames, write_json, write_video, write_wav


@pytest.fixture
def house(corpus, tmp_path):
    """(folder, config maker): clip0 is a folder of frames, clip1 and clip2 are videos with sound."""
    for name in ("clip1", "clip2"):
        (tmp_path / "media").mkdir(exist_ok=True)
        shutil.copy(corpus.root / "videos" / f"{name}.mp4", tmp_path / "media")
    write_frames(tmp_path / "media" / "clip0", 6, 32)
    write_json(tmp_path / "ids.json", ["clip0", "clip1", "clip2"])
    write_json(tmp_path / "txt.json", {f"clip{i}": [f"text {i}", f"other {i}"] for i in range(3)})

    def config(**changes):
        own = {"type": "valor", "ids_path": str(tmp_path / "ids.json"), "txt": str(tmp_path / "txt.json"),
               "vision": str(tmp_path / "media"), "vision_format": "video", "task": "ret%tva"}
        return corpus.config(**{**own, **changes})

    return tmp_path, config


def read(config, spec, training=False):
    dataset = IndexedDataset(config, spec, seed=1, training=training)
    return dataset, [dataset.read(row, row) for row in range(len(dataset))]


def test_videos_and_folders_of_frames_of_one_dataset(house, spec):
    folder, config = house
    _, samples = read(config(), spec)
    assert [sample.frames.shape for sample in samples] == [(2, 3, 32, 32)] * 3
    assert [sample.present[Modality.AUDIO] for sample in samples] == [False, True, True]
    assert [sample.captions[kind] for sample in samples[:1] for kind in sample.captions] == [["text 0", "other 0"]]
    _, samples = read(config(test_one=True, task="ret%tv"), spec)
    assert [text for sample in samples for texts in sample.captions.values() for text in texts] == ["text 0", "text 1", "text 2"]


def test_sound_beside_frames_by_either_ending(house, spec):
    folder, config = house
    write_wav(folder / "sound" / "clip0.wav")
    write_video(folder / "sound" / "clip1.mkv", frames=8, size=32)
    _, samples = read(config(audio=str(folder / "sound")), spec)
    assert [sample.present[Modality.AUDIO] for sample in samples] == [True, True, False]


def test_frames_alone_have_no_sound(house, spec):
    _, config = house
    _, samples = read(config(task="ret%ta"), spec)
    assert "a folder of frames has no sound; 'audio' names a folder of sound files" in samples[0][1] and samples[1].spectrogram is not None


def test_a_clip_that_is_neither(house, spec):
    folder, config = house
    shutil.rmtree(folder / "media" / "clip0")
    (folder / "media" / "clip0.txt").write_text("x")
    _, samples = read(config(task="ret%tv"), spec)
    assert samples[0][0] == "clip0" and "no such folder of frames, and no file, with or without an ending" in samples[0][1]


def test_one_question_is_drawn_with_all_its_answers(house, spec, tokenizer):
    folder, config = house
    asked = {"clip0": [{"question": "q0", "answer": ["a", "b"], "answer_weights": [1, 0.5], "question_id": 1},
                       {"question": "q1", "answer": "c", "question_id": 2}],
             "clip1": [{"question": "q2", "answer": "d"}], "clip2": []}
    write_json(folder / "txt.json", asked)
    dataset = IndexedDataset(config(task="qa%tv"), spec, seed=1, training=True)
    drawn = {}
    for position in range(20):
        sample = dataset.read(position, 0)
        assert len(sample.questions) == len(sample.answers) == len(sample.question_ids) == len(sample.answer_weights)
        drawn[sample.questions[0]] = (sample.answers, sample.answer_weights, sample.question_ids)
    assert drawn == {"q0": (["a", "b"], [1.0, 0.5], ["1", "1"]), "q1": (["c"], [1.0], ["2"])}
    both = next(sample for sample in (dataset.read(p, 0) for p in range(20)) if len(sample.answers) == 2)
    batch = collate([both, dataset.read(0, 1)], corpus="c", tokenizer=tokenizer, lengths=dataset.lengths, task=dataset.task)
    assert batch.questions.raw == ["q0", "q0", "q2"] and batch.answers.weights.tolist() == [1.0, 0.5, 1.0]
    assert batch.answers.clip.tolist() == [0, 0, 1]


def test_what_check_says(house, caplog):
    folder, config = house
    write_json(folder / "more.json", ["clip0", "clip1", "clip2", "clip9"])
    texts = json.loads((folder / "txt.json").read_text())
    write_json(folder / "more_txt.json", {**texts, "clip9": "without a file"})
    good = config(name="good", task="ret%tv", epoch=None)
    datasets = (good, config(name="lost", task="ret%tv", epoch=None, ids_path=str(folder / "more.json"), txt=str(folder / "more_txt.json")),
                config(name="unknown", task="ret%tv", epoch=None, ids_path=str(folder / "more.json")))
    whole = Config(RunConfig(mode="testing", checkpoint="x.pt"), ModelConfig(vision_resolution=32), DataConfig((), datasets))
    with caplog.at_level("INFO", logger="omnivast"):
        reports = {report.name: report for report in check(whole, InputSpec.of(whole.model_cfg))}
    assert not reports["val good"].failed and reports["val lost"].failed and reports["val lost"].count("fault") == 1
    assert "nearest is 'clip2.mp4'" in caplog.text
    assert "'clip9' first. Did you mean 'clip" in reports["val unknown"].fault


def test_files_that_the_layout_needs(house, spec):
    _, config = house
    for key in ("ids_path", "txt"):
        with pytest.raises(DataError, match="type valor needs 'ids_path', the list of ids, and 'txt'"):
            IndexedDataset(config(**{key: ""}), spec, seed=1, training=True)
