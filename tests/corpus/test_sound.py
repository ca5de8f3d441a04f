"""How loud a video is and where speech may be, from the pass that reads its frames."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

from omnivast.corpus.sound import FLOOR, STEP, Listener, Sound
from omnivast.corpus.split import Split, split
from tests.corpus.videos import GREEN, RED, write

RATE = 16000


def heard(samples, begin=0.0, listener=None):
    """The same in parts, as a decoder gives it."""
    listener = listener or Listener()
    for start in range(0, len(samples), 1024):
        own = np.ascontiguousarray(samples[None, start : start + 1024], np.float32)
        part = av.AudioFrame.from_ndarray(own, format="flt", layout="mono")
        part.sample_rate, part.pts, part.time_base = RATE, round(begin * RATE) + start, Fraction(1, RATE)
        listener(part)
    return listener


def tone(seconds, hertz=200.0, height=0.5):
    return height * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def test_levels_are_decibels_and_what_has_no_pitch_is_no_speech():
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE)
    sound = heard(np.concatenate([tone(2), np.zeros(3 * RATE), noise])).end()
    assert len(sound.levels) == 80 and abs(sound.level(0.5, 1.5) - 20 * np.log10(0.5 / 2**0.5)) < 0.6
    assert abs(sound.level(6, 7) + 23) < 0.6  # half of its band
    assert sound.level(3, 4) == FLOOR and not sound.is_heard(3, 4) and sound.is_heard(1, 4) and sound.is_heard(6, 7)
    assert sound.speech_share(0, 2) == 1 and sound.speech_share(3.5, 8) == 0 and 0 < sound.speech_share(0, 8) < 0.5
    again = Sound.from_json(sound.to_json())
    assert again.start == 0 and np.array_equal(again.levels, sound.levels) and np.array_equal(again.pitched, sound.pitched)


def test_times_are_those_of_the_file_although_sound_begins_late_and_has_gaps():
    listener = heard(tone(1), 2.0)
    sound = heard(tone(1, height=0.05), 6.5, listener).end()
    assert sound.start == 2 and len(sound.levels) == 55
    assert sound.is_heard(2, 3) and not sound.is_heard(3.5, 6.4) and abs(sound.level(2.2, 2.8) - sound.level(6.7, 7.3) - 20) < 1
    assert not sound.is_heard(40, 41) and sound.level(40, 41) == FLOOR and not sound.is_heard(0, 1)
    assert Listener().end() is None


def test_times_that_make_no_sense_take_no_memory():
    sound = heard(tone(1), 1e7, heard(tone(1))).end()
    assert abs(len(sound.levels) * STEP - 2) < 0.3


def test_the_sound_of_a_video_comes_with_its_frames(tmp_path):
    known = split(write(tmp_path / "a.mp4", [RED] * 50 + [GREEN] * 50), "none")
    assert abs(len(known.sound.levels) - 40) <= 2 and abs(known.sound.level(1, 3) + 9) < 1.5 and known.moved.shape == (32, 12)
    again = Split.from_json(known.to_json())
    assert again.to_json() == known.to_json() and again.sound.start == known.sound.start
    assert split(write(tmp_path / "b.mp4", [RED] * 50, sound=False), "none").sound is None


def test_damage_in_the_sound_leaves_the_frames(tmp_path):
    path = write(tmp_path / "a.mkv", [RED] * 100)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(container.streams.audio[0]) if packet.size][20:30]
    for place, size in places:
        content[place + 12 : place + size] = b"\xff" * (size - 12)
    path.write_bytes(content)
    known = split(path, "none")
    assert known.frames == 100 and known.sound is not None and known.sound.is_heard(0, 1) and known.sound.is_heard(3, 3.9)
