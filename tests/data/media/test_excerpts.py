"""Parts of a long video as clips of their own: the frames and the sound are those of the part."""

from __future__ import annotations

import pytest
import torch

from omnivast.config.tasks import Task
from omnivast.data.media import decode
from omnivast.data.media.errors import MediaError
from omnivast.data.media.excerpts import Excerpt, excerpt_of
from omnivast.data.media.reader import ClipReader
from omnivast.data.media.soundtrack import Hearing
from tests.corpus.videos import BLUE, GREEN, RED, hertz, write


def test_names():
    part = Excerpt("a/b.mp4", 3, 7, 0.12, 0.3200001)
    assert part.name == "a/b.mp4#frames=3-7&t=0.12-0.32" and excerpt_of(part.name) == ("a/b.mp4", Excerpt("a/b.mp4", 3, 7, 0.12, 0.32))
    for plain in ("a.mp4", "a#frames=3", "a#frames=7-3&t=0-1", "#frames=1-2&t=0-1", "a#frames=1-2&t=0-"):
        assert excerpt_of(plain) == (plain, None)


def test_the_frames_of_the_part_are_read_and_no_others(tmp_path, corpus, spec):
    write(tmp_path / "v" / "long.mp4", [RED] * 30 + [GREEN] * 30 + [BLUE] * 30)
    config = corpus.config(vision=str(tmp_path / "v"), vision_sample_num=6, audio_sample_num=1, task="ret%tva",
                           cache_dir=str(tmp_path / "cache"))
    parts = {0: Excerpt("long.mp4", 0, 29, 0, 1.2), 1: Excerpt("long.mp4", 30, 59, 1.2, 2.4), 2: Excerpt("long", 60, 89, 2.4, 3.6)}
    whole = ClipReader(config, Task.parse("ret%tva"), spec, training=False)
    for training in (False, True, True):  # the last time from the cache
        reader = ClipReader(config, Task.parse("ret%tva"), spec, training=training)
        for channel, part in parts.items():
            clip = reader.read(part.name, (0,))
            assert clip.frame_count == 30 and clip.has_sound
            assert (clip.frames.float().mean((2, 3)).argmax(1) == channel).all()
    slices = [whole.read(part.name, (0,)).spectrogram for part in parts.values()]
    assert not torch.equal(slices[0], slices[1])
    with pytest.raises(MediaError, match="no such file"):
        reader.read("other.mp4#frames=0-1&t=0-1", (0,))


def test_the_sound_of_the_part_is_heard_to_the_sample(tmp_path):
    path = write(tmp_path / "long.mp4", [RED] * 25 * 6)
    for second in (0, 2, 4):
        heard = decode.hear(path, Hearing(span=(second + 0.1, second + 0.9)))
        assert abs(len(heard.waveform) - 12800) <= 1 and abs(hertz(heard.waveform) - (200 + 100 * second)) < 3
    whole = decode.hear(path, Hearing()).waveform
    part = decode.hear(path, Hearing(span=(3.0, 4.0))).waveform
    assert torch.allclose(part, whole[48000:64000], atol=2e-3)
