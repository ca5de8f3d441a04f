"""The media benchmark at a small size: both ways agree, fewer frames are decoded, and every figure is there."""

from pathlib import Path

import pytest

from benchmarks import media

SHARED = Path(__file__).parents[2].parent / "shared" / "media"
KEYS = {"plain_s", "ours_s", "ratio", "equal"}


def test_figures_and_agreement(tmp_path):
    video = media.make_video(tmp_path / "a.mp4", seconds=2.0, width=64, height=96)
    result = media.measure(repeats=1, videos=[video])
    assert all(row.keys() >= KEYS and row["equal"] is True for row in result.values()) and result.keys() == {"media", "mel"}
    row = result["media"]
    assert row["frames"] == 60 and 8 <= row["decoded"] < 60 and row["ratio"] == pytest.approx(row["plain_s"] / row["ours_s"])


def test_another_choice_of_frames_is_seen(tmp_path, monkeypatch):
    video = media.make_video(tmp_path / "a.mp4", seconds=0.5, width=32, height=32)
    monkeypatch.setattr(media, "_choose", lambda count: list(range(8)))
    assert media.measure(repeats=1, videos=[video])["media"]["equal"] is False


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/media is absent")
def test_real_clips_are_read_alike():
    """Counts, not clocks: of 131 frames the 50 that others refer to and at most the 8 wanted are decoded."""
    found = media._compare_frames([SHARED / "video1.mp4"], threads=1)
    assert found["equal"] and found["decoded"] <= 58 and found["mean_levels"] < 0.5
