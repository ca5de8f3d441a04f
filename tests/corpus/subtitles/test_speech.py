"""Speech → words: nothing where nobody speaks, by whatever recogniser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from omnivast.corpus import cli
from omnivast.corpus.subtitles import voice
from omnivast.corpus.subtitles.cues import Cue
from omnivast.corpus.subtitles.files import sidecars
from omnivast.corpus.subtitles.speech import Command, SpeechError, SpeechSetupError, recognise, recogniser, repeats_itself, write_wav
from omnivast.corpus.subtitles.stage import Speech, subtitles_of
from omnivast.corpus.subtitles.voice import RATE, Stretch, Voice, together
from omnivast.data.media.decode import hear
from omnivast.data.media.soundtrack import Hearing
from tests.corpus.subtitles.tiny_whisper import make_whisper

ESPEAK = shutil.which("espeak-ng")
speaks = pytest.mark.skipif(ESPEAK is None, reason="espeak-ng is not installed (Debian: apt install espeak-ng)")


class Always:
    """Takes the seconds of ``spans`` for speech."""

    def __init__(self, *spans):
        self.spans = spans

    def stretches(self, path):
        wave = hear(path, Hearing(RATE)).waveform
        for start, end in self.spans:
            yield Stretch(start, wave[int(start * RATE) : int(end * RATE)], ((start, end),))


class Says:
    """A recogniser that says the same of each stretch, and counts them."""

    def __init__(self, *cues):
        self.cues, self.heard = cues, 0

    def words(self, stretches, language):
        self.heard += len(stretches)
        return [list(self.cues) for _ in stretches], language


def music(seconds):
    """A melody with chords and a beat."""
    t = np.arange(int(seconds * RATE)) / RATE
    melody = np.sin(2 * np.pi * np.cumsum(220 * 2 ** (np.floor(t * 4) * 5 % 12 / 12)) / RATE) * np.exp(-2 * (t * 4 % 1))
    chord = sum(np.sin(2 * np.pi * f * t) for f in (110, 138.6, 164.8)) / 3
    beat = np.random.default_rng(0).standard_normal(len(t)) * np.exp(-30 * (t * 2 % 1))
    return torch.tensor(0.3 * melody + 0.2 * chord + 0.2 * beat, dtype=torch.float32)


def noise(seconds, level):
    return torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(0)) * level


def script(tmp_path, body):
    """The command that runs a program which is given the WAV file."""
    path = tmp_path / "asr.py"
    path.write_text(f"import json, sys, wave\nwav = wave.open(sys.argv[1])\nseconds = wav.getnframes() / wav.getframerate()\n{body}\n")
    return f"{sys.executable} {path}"


def test_nothing_is_heard_in_silence_noise_and_music(tmp_path):
    pytest.importorskip("silero_vad")
    by = Says(Cue(0, 1, "thanks for watching"))
    threads = torch.get_num_threads()
    detector = Voice()
    assert torch.get_num_threads() == threads
    for name, sound in (("silence", torch.zeros(8 * RATE)), ("hiss", noise(8, 0.05)), ("noise", noise(8, 0.4)), ("music", music(8))):
        write_wav(tmp_path / f"{name}.wav", sound)
        assert recognise(tmp_path / f"{name}.wav", detector, by, None, "says") is None, name
    assert by.heard == 0


@speaks
def test_speech_is_found_at_its_time(tmp_path):
    """Three sentences by espeak-ng, with silence and music between them."""
    pytest.importorskip("silero_vad")
    parts, expected, at = [], [], 0.0
    for sentence, pause in (("add two tomatoes and a pinch of salt", torch.zeros(3 * RATE)), ("the red boat crosses the lake", music(4)),
                            ("come here and fetch the ball", torch.zeros(2 * RATE))):
        subprocess.run([ESPEAK, "-w", str(tmp_path / "part.wav"), sentence], check=True, timeout=60)
        said = hear(tmp_path / "part.wav", Hearing(RATE)).waveform
        parts += [pause, said]
        expected.append((at + len(pause) / RATE, at + (len(pause) + len(said)) / RATE))
        at = expected[-1][1]
    write_wav(tmp_path / "whole.wav", torch.cat(parts))
    found = list(Voice().stretches(tmp_path / "whole.wav"))
    assert len(found) == 3
    for stretch, (start, end) in zip(found, expected):
        assert abs(stretch.start - start) < 0.4 and abs(stretch.end - end) < 1.0  # it fades out in the music that follows


@speaks
def test_windows_change_nothing(tmp_path, monkeypatch):
    """A long sound is heard window by window; speech at the end of one is heard whole."""
    pytest.importorskip("silero_vad")
    subprocess.run([ESPEAK, "-w", str(tmp_path / "part.wav"), "the red boat crosses the lake"], check=True, timeout=60)
    said = hear(tmp_path / "part.wav", Hearing(RATE)).waveform
    write_wav(tmp_path / "whole.wav", torch.cat([torch.zeros(RATE), said, torch.zeros(4 * RATE), said, torch.zeros(4 * RATE), said]))
    whole = [(stretch.start, stretch.end) for stretch in Voice().stretches(tmp_path / "whole.wav")]
    monkeypatch.setattr(voice, "WINDOW", 1 + len(said) / RATE + 4 + len(said) / RATE / 2)
    monkeypatch.setattr(voice, "LONGEST", 4.0)
    parted = [(stretch.start, stretch.end) for stretch in Voice().stretches(tmp_path / "whole.wav")]
    assert len(whole) == 3 and np.allclose(whole, parted, atol=0.15)


def test_spans_with_short_pauses_are_recognised_together():
    assert together([(0, 5), (6, 20), (20.5, 30), (40, 41)]) == [[(0, 5), (6, 20)], [(20.5, 30)], [(40, 41)]]


def test_words_beside_speech_and_loops_are_left_out(tmp_path):
    write_wav(tmp_path / "a.wav", noise(10, 0.1))
    by = Says(Cue(0.5, 1.5, " hello there"), Cue(1.5, 30, "and more"), Cue(5, 6, "beside it"), Cue(0, 1, "so " * 60), Cue(1, 2, "..."))
    found = recognise(tmp_path / "a.wav", Always((2.0, 4.0)), by, "en", "says")
    assert [(cue.start, cue.end, cue.text) for cue in found.cues] == [(2.5, 3.5, "hello there"), (3.5, 4.0, "and more")]
    assert (found.language, found.source, found.detail) == ("en", "speech", "says")
    assert repeats_itself("thank you. " * 20) and not repeats_itself("no no no no") and not repeats_itself(
        "add two tomatoes and a pinch of salt, then stir until the onions are soft and golden")


def test_a_command_is_given_the_speech_alone(tmp_path):
    """Two stretches of 2 and 1 seconds, with a pause of half a second between them; times come back as those of the whole sound."""
    write_wav(tmp_path / "a.wav", noise(10, 0.1))
    command = script(tmp_path, "assert (wav.getframerate(), wav.getnchannels(), wav.getsampwidth()) == (16000, 1, 2)\n"
                     "print(json.dumps({'language': 'fr', 'segments': [{'start': 0.5, 'end': 2.2, 'text': 'un', 'confidence': 0.5},"
                     "{'start': 2.6, 'end': seconds, 'text': 'deux'}]}))")
    found = recognise(tmp_path / "a.wav", Always((1.0, 3.0), (7.0, 8.0)), Command(command), None, "cmd")
    assert found.cues == [Cue(1.5, 3.0, "un", 0.5), Cue(pytest.approx(7.1), 8.0, "deux")] and found.language == "fr"
    placed = Command(command.replace("asr.py", "asr.py {wav}"))
    assert recognise(tmp_path / "a.wav", Always((1.0, 3.0)), placed, None, "cmd").cues[0].text == "un"


@pytest.mark.parametrize("body, reason", [
    ("sys.exit('out of memory in ' + sys.argv[1])", "the command for speech ended with 1: out of memory in the file"),
    ("print('hello')", "the command for speech printed no JSON segments"),
    ("print(json.dumps({'words': 3}))", "the command for speech printed no JSON segments"),
    ("import time; time.sleep(60)", "the command for speech took too long"),
])
def test_a_command_that_fails_is_a_reason(tmp_path, monkeypatch, body, reason):
    monkeypatch.setattr("omnivast.corpus.subtitles.speech.PATIENCE", -20.0 if "sleep" in body else 60.0)
    stretch = Stretch(0.0, torch.zeros(RATE), ((0.0, 1.0),))
    with pytest.raises(SpeechError) as error:
        Command(script(tmp_path, body)).words([stretch], None)
    assert str(error.value) == reason


def test_what_cannot_be_used_is_said_before(tmp_path, caplog):
    with pytest.raises(SpeechSetupError, match="expected whisper:FOLDER, faster-whisper:FOLDER or a command"):
        Command("no-such-program --fast")
    with pytest.raises(SpeechSetupError, match="there is no folder"):
        recogniser(f"whisper:{tmp_path}/none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpeechSetupError, match="there is no .*config.json"):
        Speech(f"whisper:{tmp_path}/empty").check()
    write_wav(tmp_path / "a.wav", torch.zeros(RATE))
    assert cli.transcribe([str(tmp_path / "a.wav"), "--asr", "no-such-program"]) == 2 and "no-such-program" in caplog.text


def test_whisper_from_a_folder(tmp_path):
    """A tiny one with random weights: what it says is no words of ours, but it says the same each time, within the speech."""
    folder = make_whisper(tmp_path / "whisper")
    by = recogniser(f"whisper:{folder}", "cpu")
    write_wav(tmp_path / "a.wav", music(10))
    stretches = list(Always((1.0, 3.0), (5.0, 8.0)).stretches(tmp_path / "a.wav"))
    first, language = by.words(stretches, None)
    again, _ = by.words(stretches, language)
    assert first == again and language in ("en", "de") and any(own for own in first)
    for own, stretch in zip(first, stretches):
        for cue in own:
            assert 0 <= cue.start <= cue.end <= stretch.end - stretch.start and (cue.confidence is None or 0 < cue.confidence <= 1)
    assert any(cue.confidence for own in first for cue in own)
    other = recogniser(f"whisper:{folder}", "cpu").words(stretches, "de")
    assert other[1] == "de"


def test_the_verb_takes_the_first_that_has_words(tmp_path, capsys):
    write_wav(tmp_path / "a.wav", torch.zeros(RATE))
    write_wav(tmp_path / "b.wav", torch.zeros(RATE))
    (tmp_path / "a.en.vtt").write_text("WEBVTT\n\n00:00.2 --> 00:01.0\nhello\n")
    assert cli.transcribe([str(tmp_path / "a.wav")]) == 0
    assert json.loads(capsys.readouterr().out) == {"cues": [{"start": 0.2, "end": 1.0, "text": "hello", "confidence": None}],
                                                   "language": "en", "from": "vtt", "detail": "a.en.vtt"}
    assert cli.transcribe([str(tmp_path), "--json", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "b.wav.json").read_text()) == {"cues": [], "language": None, "from": None, "detail": None}
    files = [path.name for path in sidecars("en").all(tmp_path / "a.wav")]
    by = Always((0.0, 1.0)), Says(Cue(0, 1, "spoken"))
    assert subtitles_of(tmp_path / "a.wav", files, Speech("says"), by).source == "vtt"
    assert subtitles_of(tmp_path / "a.wav", [], Speech("says"), by).cues[0].text == "spoken"
