"""Long files as moments."""

import numpy as np
import pytest
import torch

from omnivast.config.tasks import Modality
from omnivast.inference.clips import Clips
from omnivast.inference.moments import moments_of, read_moments, seconds_of
from tests.media_factory import grey, write_video


def opened(path):
    with Clips() as clips:
        return clips.open(path)


def test_windows_overlap_and_the_last_ends_with_the_file(media):
    clip = opened(media / "b" / "long.mp4")  # 6 s
    assert seconds_of(clip) == pytest.approx(6, abs=0.1)
    found = moments_of(clip, window=2.0, stride=1.0)
    assert [(round(m.start, 1), round(m.end, 1)) for m in found] == [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6)]
    assert not any(m.whole for m in found)


def test_what_is_hardly_longer_than_a_window_is_one_moment(media):
    (one,) = moments_of(opened(media / "b" / "long.mp4"), window=5.0, stride=2.5)
    assert one.whole
    (picture,) = moments_of(opened(media / "picture.png"))
    assert (picture.start, picture.end, picture.whole) == (0, 0, True)


def test_words_belong_to_the_windows_in_which_they_are_shown(media):
    found = moments_of(opened(media / "said.mp4"), window=1.0, stride=0.5)  # hello welcome today until 1 s, then the car
    assert [m.said for m in found] == ["hello welcome today", "hello welcome today the car", "the car"]


def test_a_window_has_its_frames_and_its_sound(model, tmp_path):
    """Grey levels rise over the video: each window shows its own."""
    images = np.stack([np.full((64, 64, 3), grey(n, 40), np.uint8) for n in range(40)])
    clip = opened(write_video(tmp_path / "rising.mp4", images=images, fps=10))
    moments = moments_of(clip, window=1.0, stride=1.0)
    samples = list(read_moments(model.sampling, clip, moments, [Modality.VISION, Modality.AUDIO]))
    assert len(samples) == 4
    for number, sample in enumerate(samples):
        levels = sample.frames.float().mean((1, 2, 3)).tolist()
        wanted = [grey(10 * number + place, 40) for place in (2, 7)]  # of each half of a second the third
        assert levels == pytest.approx(wanted, abs=4)
        assert sample.spectrogram.shape == (1, 32, 32)
        assert sample.present == {Modality.VISION: True, Modality.AUDIO: True}


def test_many_windows_are_read_in_parts_that_change_nothing(model, media, monkeypatch):
    clip = opened(media / "b" / "long.mp4")
    moments = moments_of(clip, window=1.0, stride=0.5)
    whole = list(read_moments(model.sampling, clip, moments, [Modality.VISION]))
    monkeypatch.setattr("omnivast.inference.moments.AT_ONCE", 3)
    for one, other in zip(whole, read_moments(model.sampling, clip, moments, [Modality.VISION]), strict=True):
        assert torch.equal(one.frames, other.frames)
