"""Long MP4 videos are planned by their own tables: few packets are looked at, and the frames are those of decoding everything."""

from functools import partial

import av
import numpy as np
import pytest
import torch

from omnivast.data.media import decode as media
from omnivast.data.media import groups, packets
from omnivast.data.media.decode import read_clip
from omnivast.data.media.parts import Part
from omnivast.data.media.pictures import CLOSED_PICTURE, NON_REFERENCE, OPEN_PICTURE, REFERENCE, picture_reader
from omnivast.data.media.sample_tables import Samples, read_samples
from tests.data.media.test_decoding import eight, is_plain, write
from tests.data.media.test_pictures import CASES, CHOICES
from tests.media_factory import write_video

CLOSED = {"g": "12", "bf": "2", "sc_threshold": "0"}


@pytest.fixture
def looked_at(monkeypatch):
    """Per clip read, whether the tables told what to decode; and the packets of the pass over all of them."""
    told, passed, real, add = [], [], groups.plan_by_tables, packets.PacketTable.add

    def plan(*args):
        found = real(*args)
        told.append(found is not None)
        return found

    monkeypatch.setattr(media, "plan_by_tables", plan)
    monkeypatch.setattr(packets.PacketTable, "add", lambda table, packet: (passed.append(packet.pts), add(table, packet))[1])
    return told, passed


@pytest.mark.parametrize("codec, ending, options, most", [case for case in CASES.values() if case[1] == "mp4"],
                         ids=[name for name, case in CASES.items() if case[1] == "mp4"])
def test_the_tables_tell_for_every_codec(tmp_path, looked_at, codec, ending, options, most):
    told, passed = looked_at
    path = write(tmp_path / "a.mp4", 200, size=128, options=options, codec=codec)
    for choose in CHOICES:
        is_plain(path, choose)
    assert told == [True] * len(CHOICES) and len(passed) == len(CHOICES)  # the first packet each time


@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_packets_are_where_the_tables_say(tmp_path, ending):
    path = write_video(tmp_path / f"a.{ending}", frames=60, faststart=ending == "mp4")
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        packets = [packet for packet in container.demux(video) if packet.size]
        samples = read_samples(str(path), video.id)
    assert samples.offsets.tolist() == [packet.pos for packet in packets]
    assert samples.sizes.tolist() == [packet.size for packet in packets]
    assert (samples.times - samples.times[0]).tolist() == [packet.pts - packets[0].pts for packet in packets]
    assert samples.entries.tolist() == [place for place, packet in enumerate(packets) if packet.is_keyframe]
    assert read_samples(str(path), 77) is None


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_sound_and_parts_of_shards(tmp_path, looked_at, name):
    path = write_video(tmp_path / name, frames=60)
    whole = read_clip(path, eight, sound=True)
    (tmp_path / "a.tar").write_bytes(b"x" * 777 + path.read_bytes() + b"y" * 99)
    part = read_clip(Part(str(tmp_path / "a.tar"), 777, path.stat().st_size, name), eight, sound=True)
    assert looked_at[0] == [True, True]
    assert torch.equal(whole.frames, part.frames) and torch.equal(whole.waveform, part.waveform)
    assert torch.equal(whole.waveform, media.read_sound(path))


def edited(path, box, place, content):
    """The file with other bytes at a place of a box's content."""
    data = bytearray(path.read_bytes())
    start = data.index(box) + 4 + place
    data[start : start + len(content)] = content
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "box, place, content",
    [(b"stsz", 12, b"\x7f\xff\xff\xff"), (b"stsz", 12, bytes(4)), (b"stts", 4, b"\0\0\0\7"), (b"stco", 8, b"\x7f\xff\xff\xff"),
     (b"stss", 8, b"\0\0\0\2"), (b"ctts", 4, b"\x7f\xff\xff\xff"), (b"elst", 12, b"\0\0\x30\0"), (b"elst", 8, b"\0\0\0\1"),
     (b"stsc", 16, b"\0\0\0\2")],
    ids=["past the end", "empty packet", "too many steps", "chunk elsewhere", "no first key frame", "too few offsets", "begins later",
         "ends earlier", "other description"],
)
def test_tables_that_do_not_tell(tmp_path, box, place, content):
    path = write(tmp_path / "a.mp4", options=CLOSED)
    assert read_samples(str(path), 1) is not None
    assert read_samples(str(edited(path, box, place, content)), 1) is None


def test_a_file_in_fragments_is_passed_over_as_before(tmp_path, looked_at):
    path = tmp_path / "a.mp4"
    with av.open(str(write(tmp_path / "b.mp4", options=CLOSED))) as source, av.open(
            str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as made:
        stream = made.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                made.mux(packet)
    is_plain(path)
    assert looked_at[0] == [False]


def test_times_that_contradict_the_groups_are_not_believed(tmp_path, looked_at):
    """A frame of the first group that is to be shown after the next key frame."""
    path = edited(write(tmp_path / "a.mp4", options=CLOSED), b"ctts", 8 + 8 * 3 + 4, b"\0\1\0\0")
    is_plain(path)
    assert looked_at[0] == [False]


@pytest.mark.parametrize("which", ["first", "smallest"])
def test_a_hole_in_a_group_that_is_not_wanted_is_found(tmp_path, which):
    """Files that were not downloaded whole hold zeros; decoding everything gives fewer frames then."""
    path = write(tmp_path / "a.mp4", options=CLOSED)
    samples = read_samples(str(path), 1)
    place = samples.entries[2] if which == "first" else samples.sizes.argmin()
    data = bytearray(path.read_bytes())
    start, size = samples.offsets[place], samples.sizes[place]
    data[start : start + size] = bytes(int(size))
    path.write_bytes(data)
    with av.open(str(path)) as container:
        first = next(container.demux(video=0))
        extradata = container.streams.video[0].codec_context.extradata
    assert groups.plan_by_tables(str(path), samples, first, lambda n: [0], partial(picture_reader, "h264", extradata)) is None


def samples_of(*packets):
    """Of (picture, time), one byte each."""
    times = np.array([time for _, time in packets])
    entries = np.array([place for place, (picture, _) in enumerate(packets) if picture.entry])
    count = len(packets)
    return Samples(np.arange(count), np.ones(count, np.int64), times, times.argsort(), entries)


def test_stretches_begin_at_key_frames_and_grow_together():
    made = samples_of((CLOSED_PICTURE, 0), (REFERENCE, 2), (NON_REFERENCE, 1), (OPEN_PICTURE, 5), (NON_REFERENCE, 3), (NON_REFERENCE, 4),
                      (CLOSED_PICTURE, 6), (REFERENCE, 7))
    assert groups._stretches(made, [7]) == [(6, 7, [7])]
    assert groups._stretches(made, [0, 6, 6]) == [(0, 0, [0]), (6, 6, [6])]
    assert groups._stretches(made, [3]) == [(0, 4, [4])]  # shown before the key frame that it follows
    assert groups._stretches(made, [1, 5, 3]) == [(0, 4, [2, 3, 4])]


def test_of_many_groups_some_are_looked_at():
    count, seen = 2 * 5000, set()
    packets = [(REFERENCE if place % 2 else CLOSED_PICTURE, place) for place in range(count)]

    def content(place):
        seen.add(place)
        return place.to_bytes(4, "big")

    assert groups._is_grouped(samples_of(*packets), content, lambda: lambda data: packets[int.from_bytes(data, "big")][0])
    assert {0, 1, count - 2, count - 1} <= seen and max(np.diff(sorted(seen))) < 3 * count / groups.MOST
    assert len(seen) <= 2 * groups.MOST + groups.SMALLEST


def test_every_group_is_looked_at():
    packets = [(CLOSED_PICTURE, 0), (REFERENCE, 1), (CLOSED_PICTURE, 2), (REFERENCE, 3)]
    made = samples_of(*packets)

    def grouped(packets, made=None):
        return groups._is_grouped(made or samples_of(*packets), lambda place: bytes([place]), lambda: lambda data: packets[data[0]][0])

    assert grouped(packets)
    assert not grouped([*packets[:2], (REFERENCE, 2), packets[3]], made) and not grouped([*packets[:3], (None, 3)], made)
    assert not grouped([(CLOSED_PICTURE, 0), (REFERENCE, 2), (CLOSED_PICTURE, 1), (REFERENCE, 3)])
    assert not grouped([(CLOSED_PICTURE, 0), (REFERENCE, 1), (CLOSED_PICTURE, 3), (REFERENCE, 2)])
    assert grouped([(CLOSED_PICTURE, 0), (REFERENCE, 1), (OPEN_PICTURE, 3), (REFERENCE, 2)])
