import os

import pytest
import torch
from safetensors import safe_open

from omnivast.config.tasks import Modality
from omnivast.data.dataset import IndexedDataset
from omnivast.data.media import decode, images
from omnivast.data.media.cache import ClipCache
from omnivast.data.spec import DataError
from tests.data.conftest import vast_rows
from tests.media_factory import write_image, write_video, write_wav


def samples(config, spec, training=True):
    dataset = IndexedDataset(config, spec, seed=0, training=training)
    return [dataset.read(position, row) for position in range(3) for row in range(len(dataset))]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.clip_id == b.clip_id and a.present == b.present
        assert (a.frames is None and b.frames is None) or torch.equal(a.frames, b.frames)
        assert (a.spectrogram is None and b.spectrogram is None) or torch.equal(a.spectrogram, b.spectrogram)


def forbid_decoding(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("decoded although it is kept")

    for module, name in ((decode, "read_clip"), (decode, "hear"), (images, "read_image")):
        monkeypatch.setattr(module, name, refuse)


@pytest.mark.parametrize("task", ["ret%tva", "ret%tv", "ret%ta"])
@pytest.mark.parametrize("training", [True, False])
def test_cached_equals_decoded(corpus, spec, tmp_path, monkeypatch, task, training):
    changes = {"task": task, "vision_sample_num": 3, "audio_sample_num": 2}
    plain = samples(corpus.config(**changes), spec, training)
    cached = corpus.config(**changes, cache_dir=str(tmp_path / "cache"))
    assert_equal(plain, samples(cached, spec, training))
    forbid_decoding(monkeypatch)
    assert_equal(plain, samples(cached, spec, training))


def test_images_and_sound_files(corpus, spec, tmp_path, monkeypatch):
    for i in range(3):
        write_image(tmp_path / "images" / f"clip{i}.png", (50, 40), 60 * i)
        write_wav(tmp_path / "sounds" / f"clip{i}.wav", hertz=200 * (i + 1))
    changes = {
        "txt": corpus.annotate("three.json", vast_rows(3)),
        "vision": str(tmp_path / "images"),
        "audio": str(tmp_path / "sounds"),
        "vision_format": "image_rawimage",
        "task": "ret%tva",
    }
    plain = samples(corpus.config(**changes), spec)
    cached = corpus.config(**changes, cache_dir=str(tmp_path / "cache"))
    samples(cached, spec)
    forbid_decoding(monkeypatch)
    assert_equal(plain, samples(cached, spec))


def one_clip(corpus, tmp_path, **changes):
    settings = {
        "txt": corpus.annotate("clip0.json", vast_rows(1)),
        "vision": str(tmp_path / "videos"),
        "cache_dir": str(tmp_path / "cache"),
    }
    return corpus.config(**{**settings, "task": "ret%tva", **changes})


def test_a_changed_file_is_read_anew(corpus, spec, tmp_path):
    path = write_video(tmp_path / "videos" / "clip0.mp4", frames=4, size=32)
    before = samples(one_clip(corpus, tmp_path), spec, training=False)[0]
    write_video(path, frames=4, size=32, images=torch.full((4, 32, 32, 3), 9, dtype=torch.uint8).numpy(), sound=False)
    os.utime(path, (1, 1))
    after = samples(one_clip(corpus, tmp_path), spec, training=False)[0]
    assert after.frames.float().mean() < before.frames.float().mean() and not after.present[Modality.AUDIO]


def test_a_damaged_entry_is_replaced(corpus, spec, tmp_path):
    write_video(tmp_path / "videos" / "clip0.mp4", frames=4, size=32)
    config = one_clip(corpus, tmp_path)
    plain = samples(config, spec)
    entries = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert len(entries) == 2
    for entry, whole in entries.items():
        entry.write_bytes(whole[:100])
        assert_equal(plain, samples(config, spec))
        assert entry.read_bytes() == whole


def test_long_clips_are_not_kept(corpus, spec, tmp_path):
    write_video(tmp_path / "videos" / "clip0.mp4", frames=70, size=32)
    config = one_clip(corpus, tmp_path)
    assert_equal(samples(one_clip(corpus, tmp_path, cache_dir=None), spec), samples(config, spec))
    (entry,) = (tmp_path / "cache").rglob("*.safetensors")
    with safe_open(entry, framework="pt") as file:
        assert list(file.keys()) == ["mel"]


def test_corpora_share_what_they_read_alike(corpus, spec, tmp_path, monkeypatch):
    """A corpus that only sees fills the cache for one that sees and hears, which then decodes the sound alone."""
    write_video(tmp_path / "videos" / "clip0.mp4", frames=4, size=32)
    plain = samples(one_clip(corpus, tmp_path, cache_dir=None), spec)
    samples(one_clip(corpus, tmp_path, task="ret%tv"), spec)
    decode_pictures = decode.read_clip
    monkeypatch.setattr(decode, "read_clip", None)
    assert_equal(plain, samples(one_clip(corpus, tmp_path), spec))
    monkeypatch.setattr(decode, "read_clip", decode_pictures)
    forbid_decoding(monkeypatch)
    assert_equal(plain, samples(one_clip(corpus, tmp_path), spec))


def test_a_full_disk_is_said_once_and_survived(corpus, spec, tmp_path, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("omnivast.data.media.cache.save_file", full)
    write_video(tmp_path / "videos" / "clip0.mp4", frames=4, size=32)
    assert len(samples(one_clip(corpus, tmp_path), spec)) == 3
    assert caplog.text.count("No space left") == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        ClipCache(tmp_path / "file" / "cache")
