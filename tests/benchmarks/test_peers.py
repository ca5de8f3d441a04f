"""The comparison with other decoders at a small size: frames are proved equal, a peer that fails is left out."""

import pytest
import torch

from benchmarks import peers
from benchmarks.media import make_video


@pytest.fixture
def video(tmp_path):
    return make_video(tmp_path / "a.mp4", seconds=1.0, width=64, height=48)


def test_ours_are_the_frames_of_decoding_everything(video, monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    row = peers.measure([video], repeats=1)["a"]
    assert row["equal"] is True and row["frames"] == 30 and row["decoded"] < 30 and row["ratio"] is None
    monkeypatch.setattr(peers, "every_frame", lambda path: peers.ours(path).flip(0))
    assert peers.measure([video], repeats=1)["a"]["equal"] is False


def test_a_peer_that_cannot_read_a_video_is_left_out_and_others_are_compared(video):
    def broken(path):
        raise RuntimeError("no decoder")

    row = peers.compare(str(video), {"ours": peers.ours, "broken": broken, "brighter": lambda path: peers.ours(path).clamp(max=250) + 1}, 1)
    assert row["seconds"].keys() == {"ours", "brighter"} and 0 < row["levels"]["brighter"] <= 5
    assert row["ratio"] == pytest.approx(row["seconds"]["brighter"] / row["seconds"]["ours"])


def test_every_codec_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "VIDEOS", {name: peers.VIDEOS[name] for name in ("VP9", "MPEG-4")})
    paths = peers.made_videos(tmp_path, [0.5], 64, 48)
    assert [path.name for path in paths] == ["VP9_64x48_0.5s.webm", "MPEG-4_64x48_0.5s.mp4"]
    assert all(torch.equal(peers.ours(str(path)), peers.every_frame(str(path))) for path in paths)
    assert peers.our_batch(str(paths[0])).shape == (4, 8, 3, 224, 224)
