"""Sound through torchaudio and librosa where they are installed, as near to ours as is stated; refused with the extra's name elsewhere."""

import sys
import wave

import numpy as np
import pytest
import torch

from omnivast.config.extras import import_extra
from omnivast.data.audio import FRONTENDS
from omnivast.data.audio_backends import RESAMPLED_TOLERANCE, TOLERANCE, load_backend
from omnivast.data.dataset import IndexedDataset
from omnivast.data.media.decode import read_sound
from omnivast.data.spec import DataError
from tests.data.conftest import vast_rows
from tests.media_factory import write_video

BACKENDS = ("torchaudio", "librosa")


def needs(name):
    """A torchaudio that was built for another torch counts as not installed."""
    try:
        import_extra(name)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(params=BACKENDS)
def backend(request):
    """The name of an installed backend."""
    needs(request.param)
    return request.param


def noise(samples):
    """What swells from silence, so that loud and quiet frames are compared."""
    return np.random.default_rng(0).normal(size=samples) * np.linspace(0, 0.2, samples)


def write_stereo(path, signal, rate):
    """16 bits, the right channel at half the height."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(np.stack([signal, signal / 2], axis=1), -1, 1) * 32767).astype("<i2").tobytes())
    return path


def test_kaldi_s_filterbank_of_torchaudio_at_a_file_s_own_rate():
    needs("torchaudio")
    ours, theirs = FRONTENDS["valor_ast"], load_backend("torchaudio", "valor_ast").frontend
    for rate in (8_000, 22_050, 44_100):
        waveform = torch.from_numpy(noise(2 * rate).astype(np.float32))
        own, other = ours.log_mel(waveform, 64, rate=rate), theirs.log_mel(waveform, 64, rate=rate)
        assert own.shape == other.shape and torch.allclose(own, other, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("frontend", ["beats", "ast", "hf_ast"])
def test_kaldi_s_filterbank_of_torchaudio(frontend):
    needs("torchaudio")
    ours, theirs = FRONTENDS[frontend], load_backend("torchaudio", frontend).frontend
    assert theirs.log_mel is not ours.log_mel and (theirs.silence, theirs.rate) == (ours.silence, ours.rate)
    waveform = torch.from_numpy(noise(5 * 16_000).astype(np.float32))
    for bins in (64, 128):
        for samples in (0, 399, 400, len(waveform)):
            own, other = ours.log_mel(waveform[:samples], bins), theirs.log_mel(waveform[:samples], bins)
            assert own.shape == other.shape and torch.allclose(own, other, rtol=0, atol=TOLERANCE)


def test_torchaudio_s_long_sounds_are_computed_in_blocks(monkeypatch):
    needs("torchaudio")
    waveform = torch.from_numpy(noise(16_000).astype(np.float32))
    log_mel = load_backend("torchaudio", "beats").frontend.log_mel
    whole = log_mel(waveform, 64)
    monkeypatch.setattr("omnivast.data.audio.BLOCK", 7)
    assert torch.allclose(log_mel(waveform, 64), whole, atol=1e-5)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_resampling(backend, rate, tmp_path):
    path = write_stereo(tmp_path / "a.wav", noise(4 * rate), rate)
    theirs = load_backend(backend, "beats")
    own, other = read_sound(path, 16_000), read_sound(path, 16_000, theirs.resample)
    assert len(own) == len(other) == 64_000
    if rate == 16_000:
        assert torch.equal(own, other)
        return
    assert not torch.equal(own, other)
    apart = (FRONTENDS["beats"].log_mel(own, 64) - theirs.frontend.log_mel(other, 64)).abs()
    # mel(4 kHz) = 2146: of 64 triangles, 43.2 apart from 31.7 on, the last that ends below 85 % of it is the 44th.
    heard = apart[:, :44] if rate == 8_000 else apart
    assert heard.mean() < RESAMPLED_TOLERANCE


def test_the_sound_of_a_video(backend, tmp_path):
    """Opus at 48 kHz in WebM; and none at all."""
    resample = load_backend(backend, "beats").resample
    own = read_sound(write_video(tmp_path / "a.webm"))
    assert abs(len(read_sound(tmp_path / "a.webm", 16_000, resample)) - len(own)) <= 1
    assert read_sound(write_video(tmp_path / "b.mp4", sound=False), 16_000, resample) is None


def test_a_corpus_is_read_through_a_backend(backend, corpus, spec, tmp_path):
    """Videos with sound of their own, from files and then from the cache, which keeps native's values apart."""
    rows = corpus.annotate("two.json", vast_rows(2))
    settings = {"txt": rows, "task": "ret%tva", "cache_dir": str(tmp_path / "cache")}

    def read(name):
        dataset = IndexedDataset(corpus.config(**settings, audio_backend=name), spec, seed=0, training=False)
        return [dataset.read(0, row) for row in range(2)]

    native, first, again = read("native"), read(backend), read(backend)
    for own, theirs, kept in zip(native, first, again):
        assert own.present == theirs.present == kept.present
        assert torch.equal(own.frames, theirs.frames) and torch.equal(theirs.spectrogram, kept.spectrogram)
        assert (own.spectrogram - theirs.spectrogram).abs().mean() < RESAMPLED_TOLERANCE


def test_front_ends_that_are_not_kaldi_s_stay_ours(backend):
    for name in ("hf_whisper", "hf_clap"):
        assert load_backend(backend, name).frontend is FRONTENDS[name]


def test_native_needs_nothing():
    assert load_backend("native", "ast").frontend is FRONTENDS["ast"] and load_backend("native", "ast").resample is None


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_that_is_not_installed_names_its_extra(name, corpus, spec, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=rf'.clips.: audio_backend .{name}.: {name} is not installed: pip install "omnivast\[{name}\]"'):
        IndexedDataset(corpus.config(audio_backend=name), spec, seed=0, training=False)
