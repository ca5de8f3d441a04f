"""One pass over a video: every frame, its exact time, and no more memory for a longer one."""

from __future__ import annotations

import numpy as np
import pytest

from omnivast.corpus.boundaries.thumbnails import BATCH, Thumbnails, probe
from omnivast.data.media.errors import MediaError
from tests.corpus.videos import BLUE, GREEN, RED, write


def test_every_frame_with_its_time_although_they_are_not_even(tmp_path):
    times = [0, 40, 95, 120, 300, 333, 400, 401]
    path = write(tmp_path / "a.mkv", [RED, GREEN, BLUE, RED, RED, GREEN, GREEN, BLUE], times=times, sound=False)
    (batch,) = Thumbnails(path)
    assert batch.pts.tolist() == times and probe(path).time_base * 1000 == 1
    assert batch.thumbnails.shape == (8, 27, 48, 3) and batch.thumbnails.mean((1, 2)).argmax(1).tolist() == [0, 1, 2, 0, 0, 1, 1, 2]


def test_a_long_video_comes_in_batches_with_key_frames_and_wider_frames(tmp_path):
    path = write(tmp_path / "a.mp4", [RED] * (BATCH + 44), size=(320, 64))
    batches = list(Thumbnails(path, key_seconds=2.0, key_side=32, frame_width=160))
    assert [len(batch.pts) for batch in batches] == [BATCH, 44]
    assert [number for batch in batches for number, _ in batch.keys] == list(range(0, BATCH + 44, 50))
    assert batches[0].keys[0][1].shape == (32, 32, 3) and batches[1].frames.shape == (44, 32, 160, 3)
    steps = np.diff(np.concatenate([batch.pts for batch in batches]))
    assert len(set(steps.tolist())) == 1
    source = probe(path)
    assert (source.width, source.height, source.fps, source.codec, source.sound) == (320, 64, 25.0, "h264", True)


def test_what_cannot_be_read_is_named(tmp_path):
    path = write(tmp_path / "a.mkv", [RED] * 200)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match="a.mkv: truncated"):
        list(Thumbnails(path))
    (tmp_path / "b.mp4").write_text("no video")
    with pytest.raises(MediaError, match="b.mp4"):
        list(Thumbnails(tmp_path / "b.mp4"))
