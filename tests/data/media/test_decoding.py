"""Only the frames that are needed are decoded, and they are those that decoding everything gives, bit by bit."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from omnivast.data import audio
from omnivast.data.media import decode as media
from omnivast.data.media import soundtrack
from omnivast.data.media.decode import read_clip
from omnivast.data.media.errors import MediaError
from omnivast.data.media.packets import PacketTable
from omnivast.data.media.pictures import CLOSED_PICTURE, NON_REFERENCE, OPEN_PICTURE, REFERENCE, Picture
from omnivast.data.vision import frame_indices
from tests.media_factory import write_sound, write_video


def write(path, frames=40, *, size=48, rate=8, times=None, options=None, codec="libx264"):
    """A video of noise that drifts, so that every frame differs and refers to others. ``times``: of the frames, in milliseconds."""
    noise = np.random.default_rng(0).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.thread_count = size, size, "yuv420p", 1
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, (index, 3 * index), (0, 1)), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def plain(path):
    """Every frame of a video as (F, 3, H, W) uint8, decoded one after the other."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def eight(count):
    return frame_indices(count, 8, training=False)


def is_plain(path, choose=eight):
    """Whether the chosen frames are the plain ones; the clip."""
    frames = plain(path)
    clip = read_clip(path, choose)
    assert clip.frame_count == len(frames) and torch.equal(clip.frames, frames[choose(len(frames))])
    return clip


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
def test_of_a_long_video_little_is_decoded(tmp_path, ending):
    """Keyframes every two seconds and three B-frames between others: up to a key frame's 5 references and the frame itself."""
    options = {"g": "16", "keyint_min": "16", "sc_threshold": "0", "bf": "3", "b_strategy": "0", "x264-params": "b-pyramid=none"}
    clip = is_plain(write(tmp_path / f"a.{ending}", 480, options=options))
    assert clip.frame_count == 480 and 8 <= clip.decoded <= 8 * 6
    held = []
    read_clip(tmp_path / f"a.{ending}", eight, transform=lambda frame: held.append(frame.shape) or frame[:, :4, :4])
    assert held == [(3, 48, 48)] * 8  # no other frame is converted or kept


def test_without_key_frames_half_of_the_frames_are_skipped(tmp_path):
    clip = is_plain(write(tmp_path / "a.mp4", 120, options={"bf": "3", "b_strategy": "0", "x264-params": "b-pyramid=none"}))
    assert clip.decoded <= 120 / 4 + 2 + 8


@pytest.mark.parametrize(
    "options",
    [
        {"bf": "3", "x264-params": "b-pyramid=normal:ref=4"},
        {"bf": "0", "g": "5"},
        {"bf": "3", "g": "12", "x264-params": "open-gop=1:scenecut=0"},
        {"bf": "2", "g": "12", "x264-params": "interlaced=1"},
        {"bf": "2", "x264-params": "intra-refresh=1:keyint=12"},
        {"bf": "3", "g": "9", "x264-params": "slices=3:aud=1"},
    ],
    ids=["pyramid", "no B-frames", "open groups", "interlaced", "intra refresh", "slices"],
)
def test_frames_are_the_plain_ones_however_they_refer_to_each_other(tmp_path, options):
    path = write(tmp_path / "a.mp4", options=options)
    for choose in (eight, lambda n: [n - 1], lambda n: [0], lambda n: list(range(n)), lambda n: [3, 3, 20]):
        is_plain(path, choose)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_variable_frame_rate(tmp_path, ending):
    times = np.cumsum(np.random.default_rng(1).integers(10, 400, 40)).tolist()
    clip = is_plain(write(tmp_path / f"a.{ending}", times=times, options={"g": "10", "bf": "2"}))
    assert clip.decoded < 35


def test_missing_times_and_numbers_of_frames(tmp_path):
    """AVI stores no time of presentation, Matroska no number of frames."""
    assert is_plain(write(tmp_path / "a.avi", options={"bf": "2"})).decoded >= 40
    path = write(tmp_path / "a.mkv", options={"bf": "2"})
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    assert is_plain(path).decoded < 40


def test_one_frame(tmp_path):
    for ending in ("mp4", "mkv", "avi"):
        assert is_plain(write(tmp_path / f"a.{ending}", 1)).frames.shape[0] == 8


def test_frames_before_the_beginning_do_not_count(tmp_path):
    """An edit list that starts the video half a second in: players, and the plain way, do not show what is before."""
    path = write(tmp_path / "a.mp4", options={"bf": "0", "g": "40"})
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 12
    duration, start, speed = struct.unpack(">iii", content[place : place + 12])
    with av.open(str(path)) as container:
        half = int(0.5 / container.streams.video[0].time_base)
    content[place : place + 12] = struct.pack(">iii", duration, start + half, speed)
    path.write_bytes(content)
    assert is_plain(path).frame_count < 40


def test_what_the_packets_promise_is_checked(tmp_path, monkeypatch):
    """Where seeking leads elsewhere, everything is decoded."""
    path = write(tmp_path / "a.mp4")
    monkeypatch.setattr(media, "_decode_run", lambda container, video, run: iter(()))
    assert is_plain(path).decoded == 40


def test_sound_beside_chosen_frames_is_the_whole_sound(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=24)
    assert torch.equal(read_clip(path, eight, sound=True).waveform, media.read_sound(path))


@pytest.mark.parametrize("ending, codec", [("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9")])
def test_opening_decodes_nothing(tmp_path, ending, codec):
    """What the container says of the video is enough; the format of its pixels is known only where one was decoded."""
    path = write(tmp_path / f"a.{ending}", 4, codec=codec)
    for described in (True, False):
        with media._open(str(path), described) as container:
            context = container.streams.video[0].codec_context
            assert (context.width, context.height) == (48, 48) and (context.pix_fmt is None) == described


def test_a_size_that_the_container_has_wrong(tmp_path):
    path = write(tmp_path / "a.mp4", options={"g": "10"})
    content = bytearray(path.read_bytes())
    place = content.index(b"avc1", content.index(b"stsd")) + 28
    assert content[place : place + 4] == struct.pack(">HH", 48, 48)
    content[place : place + 4] = struct.pack(">HH", 32, 40)
    path.write_bytes(content)
    assert is_plain(path).frames.shape[-2:] == (48, 48)
    assert is_plain(path).decoded < 40


def test_what_the_container_does_not_say_is_found_by_decoding(tmp_path, monkeypatch):
    """Fewer frames than promised, as of H.264 that is shown further out of order than a decoder expects: it is opened anew."""
    path, real, opened = write(tmp_path / "a.mp4", options={"g": "10"}), media._decode_run, []

    def decode_run(container, video, run):
        opened.append(video.codec_context.pix_fmt)
        return real(container, video, run) if opened[0] != opened[-1] else iter(())

    monkeypatch.setattr(media, "_decode_run", decode_run)
    assert is_plain(path).decoded < 40
    assert opened[0] is None and opened[-1] == "yuv420p"


class Packet(bytes):
    size = property(len)
    is_discard = is_corrupt = False
    pts: int | None = None


def table(*packets):
    """Of packets of one byte each, the place of their picture."""
    made = PacketTable(lambda data: packets[data[0]][0])
    for place, (_, time) in enumerate(packets):
        packet = Packet([place])
        packet.pts = time
        made.add(packet)
    return made


def test_runs_hold_what_the_wanted_frames_need():
    made = table((CLOSED_PICTURE, 0), (REFERENCE, 3), (NON_REFERENCE, 1), (NON_REFERENCE, 2), (REFERENCE, 4), (CLOSED_PICTURE, 5),
                 (REFERENCE, 6), (NON_REFERENCE, 7))
    assert made.times() == list(range(8))
    found = made.runs([2, 7])
    assert [(run.start, run.times, run.last) for run in found] == [(0, {0, 3, 2}, 2), (5, {5, 6, 7}, 7)]
    assert [(run.times, run.last) for run in made.runs([6])] == [({5, 6}, 6)]
    assert made.runs([]) == []


def test_a_run_goes_back_through_an_open_entry_only_for_what_is_shown_before_it():
    made = table((CLOSED_PICTURE, 0), (REFERENCE, 2), (NON_REFERENCE, 1), (OPEN_PICTURE, 5), (REFERENCE, 4), (NON_REFERENCE, 3),
                 (REFERENCE, 6))
    assert [(run.start, run.times, run.last) for run in made.runs([6])] == [(5, {5, 4, 6}, 6)]
    assert [(run.start, run.times, run.last) for run in made.runs([3])] == [(0, {0, 2, 5, 4, 3}, 3)]
    assert [(run.start, run.times) for run in made.runs([1, 3, 6])] == [(0, {0, 1, 2, 3, 4, 5, 6})]


def test_slots_tell_which_pictures_are_needed():
    """Two chains side by side in slots 1 and 2; the last picture reads the second alone."""
    first, second, both = Picture(0, 1, 1), Picture(0, 2, 2), Picture(0, 3, 0)
    made = table((CLOSED_PICTURE, 0), (first, 1), (second, 2), (first, 3), (second, 4), (both, 5))
    assert made.runs([4])[0].times == {0, 2, 4} and made.runs([3])[0].times == {0, 1, 3}
    assert made.runs([5])[0].times == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    "packets",
    [[(CLOSED_PICTURE, 0), (REFERENCE, 1), (REFERENCE, 1)], [(CLOSED_PICTURE, 5), (REFERENCE, 4)],
     [(CLOSED_PICTURE, 0), (REFERENCE, 3), (CLOSED_PICTURE, 2)], [(OPEN_PICTURE, 5), (REFERENCE, 0)]],
    ids=["a time twice", "before its key frame", "key frames out of order", "before the first"],
)
def test_packets_that_do_not_tell(packets):
    assert table(*packets).runs([0]) is None


def test_a_packet_without_a_time_or_picture_makes_the_table_useless():
    assert table((CLOSED_PICTURE, 0)).usable
    assert not table((CLOSED_PICTURE, 0), (REFERENCE, None)).usable and not table((REFERENCE, 0)).usable


@pytest.mark.parametrize("ending", ["mp4", "webm"])
def test_sound_in_large_parts_is_that_of_every_frame_on_its_own(tmp_path, ending):
    """The rate, 11,025 Hz, is that of neither."""
    path, parts, track = write_video(tmp_path / f"a.{ending}", frames=40), [], soundtrack.SoundTrack(soundtrack.Hearing(11_025))
    resampler = av.AudioResampler(format="s16", layout="mono", rate=11_025)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            frame.pts = None
            parts += resampler.resample(frame)
            track.add(frame)
    parts += resampler.resample(None)
    plain = np.concatenate([part.to_ndarray()[0] for part in parts]) / np.float32(2**15)
    assert torch.equal(track.waveform(), torch.from_numpy(plain)) and track.seconds == pytest.approx(len(plain) / 11_025, abs=1e-3)


def test_sound_that_changes_on_its_way():
    """Two rates one after the other, each shorter than a part: both are kept, in their order."""
    track = soundtrack.SoundTrack(soundtrack.Hearing(16_000))
    for rate, level in ((8_000, 0.5), (32_000, -0.5)):
        frame = av.AudioFrame.from_ndarray(np.full((1, rate), level, np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        track.add(frame)
    assert track.seconds == 2
    waveform = track.waveform()
    assert len(waveform) == pytest.approx(32_000, abs=50)
    assert waveform[8_000] == pytest.approx(0.5, abs=1e-3) and waveform[24_000] == pytest.approx(-0.5, abs=1e-3)


def test_sound_without_end_is_refused(tmp_path, monkeypatch):
    path = write_sound(tmp_path / "a.flac", seconds=2)
    monkeypatch.setattr(soundtrack, "MAX_SECONDS", 1)
    with pytest.raises(MediaError, match=r"a\.flac.*sound is longer than"):
        media.read_sound(path)


def test_log_mel_does_not_depend_on_the_block(monkeypatch):
    waveform = torch.randn(8000, generator=torch.Generator().manual_seed(0)) / 10
    for name in ("beats", "ast"):
        whole = audio.FRONTENDS[name].log_mel(waveform, 32)
        monkeypatch.setattr(audio, "BLOCK", 7)
        assert torch.allclose(audio.FRONTENDS[name].log_mel(waveform, 32), whole, atol=1e-5)
        monkeypatch.undo()
