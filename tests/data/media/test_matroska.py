"""What Matroska's blocks say of packets is what demuxing them gives, and what is not understood is not guessed at."""

import av
import numpy as np
import pytest

from omnivast.data.media import matroska
from omnivast.data.media.decode import MediaError, read_clip
from omnivast.data.media.matroska import read_blocks
from tests.data.media.test_decoding import eight, is_plain, write
from tests.data.media.test_groups import looked_at as looked_at
from tests.data.media.test_pictures import CHOICES

VP9 = {"g": "16", "deadline": "realtime", "cpu-used": "8"}
CODECS = {"VP9": ("libvpx-vp9", "webm", VP9), "H.264": ("libx264", "mkv", {"g": "16", "bf": "3"}),
          "HEVC": ("libx265", "mkv", {"x265-params": "log-level=none:keyint=16"}), "MPEG-4": ("mpeg4", "mkv", {"g": "12", "bf": "2"})}


def demuxed(path):
    """(sizes, times, places of key frames) of the packets of a video."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return ([packet.size for packet in packets], [packet.pts for packet in packets],
            [place for place, packet in enumerate(packets) if packet.is_keyframe])


def agrees(path):
    """Whether the blocks say what demuxing gives, and hold the packets' bytes."""
    found = read_blocks(str(path))
    assert (found.sizes.tolist(), found.times.tolist(), found.entries.tolist()) == demuxed(path)
    content = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert packets == [content[start : start + size] for start, size in zip(found.offsets, found.sizes)]
    return found


@pytest.mark.parametrize("codec, ending, options", CODECS.values(), ids=CODECS)
def test_the_blocks_tell_for_every_codec(tmp_path, looked_at, codec, ending, options):
    told, passed = looked_at
    path = write(tmp_path / f"a.{ending}", 100, size=64, options=options, codec=codec)
    agrees(path)
    for choose in CHOICES:
        is_plain(path, choose)
    assert told == [True] * len(CHOICES) and len(passed) == len(CHOICES)  # the first packet each time


def test_a_variable_frame_rate(tmp_path, looked_at):
    times = np.cumsum(np.random.default_rng(1).integers(10, 3000, 60)).tolist()  # over several clusters
    path = write(tmp_path / "a.mkv", 60, times=times, options={"g": "10", "bf": "2"})
    assert len(agrees(path).times) == 60
    is_plain(path)
    assert looked_at[0] == [True]


def test_what_is_cut_is_not_told(tmp_path):
    path = write(tmp_path / "a.mkv", 60, options={"g": "10"})
    content = path.read_bytes()
    for part in (0.3, 0.6, 0.95):
        path.write_bytes(content[: int(len(content) * part)])
        assert read_blocks(str(path)) is None
    with pytest.raises(MediaError, match="truncated"):
        path.write_bytes(content[: len(content) // 2])
        read_clip(path, eight)


def element(kind, content):
    return bytes.fromhex(kind) + (len(content) | 1 << 56).to_bytes(8, "big") + content


def block(time, flags=0x80, track=1, packet=b"pp"):
    return bytes([0x80 | track]) + time.to_bytes(2, "big", signed=True) + bytes([flags]) + packet


def track(*more, number=1, kind=1):
    return element("ae", element("d7", bytes([number])) + element("83", bytes([kind])) + b"".join(more))


TIME = element("e7", b"\x07\xd0")
SIMPLE = element("a3", block(0)) + element("a3", block(40, 0)) + element("a3", block(-20, 0, packet=b"q" * 300))
GROUPED = (element("a0", element("a1", block(80, 0)) + element("9b", b"\x28"))
           + element("a0", element("a1", block(120, 0)) + element("fb", b"\xd8")))


def by_hand(tmp_path, tracks, *clusters, end=b""):
    path = tmp_path / "a.mkv"
    content = element("1654ae6b", tracks) + b"".join(element("1f43b675", cluster) for cluster in clusters) + end
    path.write_bytes(element("1a45dfa3", b"") + element("18538067", content))
    return read_blocks(str(path))


def test_blocks_by_hand(tmp_path):
    """Short sizes and long ones, blocks in groups with and without a reference, other tracks, what stands beside."""
    short = b"\xa3\x86" + block(200) + b"\xa3\x40\x06" + block(240, 0) + b"\xa3\x20\x00\x06" + block(280, 0)
    found = by_hand(tmp_path, track() + track(number=2, kind=2), element("ec", b"\0\0") + TIME + SIMPLE + element("a3", block(5, track=2)),
                    TIME + element("ab", b"\1") + GROUPED + short, end=element("1c53bb6b", b""))
    assert found.times.tolist() == [2000, 2040, 1980, 2080, 2120, 2200, 2240, 2280]
    assert found.sizes.tolist() == [2, 2, 300, 2, 2, 2, 2, 2] and found.entries.tolist() == [0, 3, 5]
    content = (tmp_path / "a.mkv").read_bytes()
    assert {content[start : start + 2] for start in found.offsets} == {b"pp", b"qq"}


@pytest.mark.parametrize(
    "tracks, clusters",
    [
        (track() + track(number=2), [TIME + SIMPLE]),
        (track(kind=2), [TIME + SIMPLE]),
        (track(element("6d80", b"")), [TIME + SIMPLE]),
        (track(element("23314f", b"\0\0\0\0")), [TIME + SIMPLE]),
        (track(), []),
        (track(), [SIMPLE]),
        (track(), [TIME + SIMPLE + TIME]),
        (track(), [TIME + element("a3", block(0, 0x82))]),
        (track(), [TIME + element("a3", block(0, 0x88))]),
        (track(), [TIME + element("a3", block(0, 0))]),
        (track(), [TIME + SIMPLE + element("a3", block(40, 0))]),
        (track(), [TIME + SIMPLE + element("a3", b"\x81\0")]),
        (track(), [TIME + SIMPLE + element("a3", block(80, packet=b""))]),
        (track(), [TIME + SIMPLE + element("a3", b"\x40" + block(80))]),
        (track(), [TIME + SIMPLE + element("af", b"")]),
        (track(), [TIME + SIMPLE + element("a0", element("9b", b"\1") + element("a1", block(80)))]),
        (track(), [TIME + SIMPLE + element("a0", element("a1", block(80)) + element("75a1", b""))]),
        (track(), [TIME + SIMPLE + b"\xa3\x90" + block(80)]),
        (track(), [TIME + SIMPLE + b"\xa3\xff" + block(80)]),
        (track(), [TIME + SIMPLE + b"\xa3\xff"]),
    ],
    ids=["two videos", "no video", "coded once more", "a scale of its own", "no cluster", "no time", "two times", "packed", "hidden",
         "no key frame first", "a time twice", "no room for a head", "an empty packet", "a track of a large number", "coded otherwise",
         "a group begins otherwise", "a layer beside", "a size too large", "a size unknown", "nothing behind a size"],
)
def test_what_is_not_understood(tmp_path, tracks, clusters):
    assert by_hand(tmp_path, track(), TIME + SIMPLE) is not None
    assert by_hand(tmp_path, tracks, *clusters) is None


def test_large_clusters_are_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(matroska, "LARGEST", 100)
    assert by_hand(tmp_path, track(), TIME + SIMPLE) is None
