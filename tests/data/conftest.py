"""A small corpus of eight clips, a tokenizer and sizes that every test of the data shares."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from omnivast.config.schema import DatasetConfig
from omnivast.data.shards.pack import pack
from omnivast.data.spec import InputSpec
from tests.data.sharding import packing, three_clips
from tests.media_factory import write_json, write_video

CLIPS = 8


class WordTokenizer:
    """One id per word, by its length and letters."""

    pad, cls, sep, mask = 0, 101, 102, 103

    def encode(self, texts, max_length):
        return [[self.cls, *(106 + sum(map(ord, word)) % 1000 for word in text.split())][: max_length - 1] + [self.sep] for text in texts]


@dataclass
class Corpus:
    """Paths of a corpus and a shorthand for configs on it."""

    root: Path

    def config(self, **changes) -> DatasetConfig:
        settings = {
            "name": "clips",
            "txt": str(self.root / "train.json"),
            "vision": str(self.root / "videos"),
            "vision_sample_num": 2,
            "audio_sample_num": 1,
            "task": "ret%tvas%tv%ta_cap%tvas",
            "batch_size": 4,
            "epoch": 2,
            "n_workers": 0,
        }
        return DatasetConfig(**{**settings, **changes})

    def annotate(self, name, rows) -> str:
        return str(write_json(self.root / name, rows))


def vast_rows(clips=CLIPS):
    """VAST-27M rows: five vision captions, five audio captions, one omni caption, a subtitle (empty for clip 0)."""
    return [
        {
            "clip_id": f"clip{i}",
            "vision_cap": [f"seen {i} wording {k}" for k in range(5)],
            "audio_cap": [f"heard {i} wording {k} with words" for k in range(5)],
            "vast_cap": f"omni {i} says both of them",
            "subtitle": "" if i == 0 else f"said {i}",
        }
        for i in range(clips)
    ]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    root = tmp_path_factory.mktemp("corpus")
    for i in range(CLIPS):
        write_video(root / "videos" / f"clip{i}.mp4", frames=8, size=32, sound=i != 3, hertz=200 + 50 * i)
    write_json(root / "train.json", vast_rows())
    return Corpus(root)


@pytest.fixture(scope="session")
def tokenizer():
    return WordTokenizer()


@pytest.fixture(scope="session")
def spec():
    return InputSpec(
        resolution=32, mel_bins=16, target_length=64, max_caption_len=12, max_omni_caption_len=20, max_subtitle_len=10, max_answer_len=6
    )


@pytest.fixture(scope="session")
def packed(corpus, tmp_path_factory) -> Path:
    """The eight clips of the corpus, three to a shard."""
    output = tmp_path_factory.mktemp("packed")
    manifest = pack(packing(corpus, output, shard_size=three_clips(corpus)))
    assert [shard["samples"] for shard in manifest["shards"]] == [3, 3, 2] and manifest["complete"]
    return output


@pytest.fixture
def own(packed, tmp_path) -> Path:
    """A copy of the shards to be damaged."""
    shutil.copytree(packed, tmp_path / "own")
    return tmp_path / "own"
