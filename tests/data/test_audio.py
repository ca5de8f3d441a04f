"""Front ends: recorded references, the transformers library's own feature extractors, and counted frames and slices."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from omnivast.config.schema import Config, DataConfig, ModelConfig, RunConfig
from omnivast.config.tasks import Modality
from omnivast.data.audio import FRONTENDS, find_frontend, mel_frames, slice_plan, take_slices
from omnivast.data.build import build_loaders
from omnivast.data.dataset import IndexedDataset
from omnivast.data.media.decode import hear, read_sound
from omnivast.data.media.soundtrack import Hearing
from omnivast.data.spec import DataError, InputSpec
from omnivast.data.vision import RESIZES
from tests.data.conftest import vast_rows
from tests.media_factory import tone, write_wav

PARITY = Path(__file__).parents[2].parent / "shared" / "parity" / "audio"
BEATS = FRONTENDS["beats"]


def extractor(kind, **settings):
    """A feature extractor of transformers; its torchaudio is kept out where that is built for another torch."""
    from omnivast.model.encoders.hf_audio import transformers_audio

    return getattr(transformers_audio(), f"{kind}FeatureExtractor")(**settings)


def noise(seconds, rate):
    """Noise that swells, so that every frame differs."""
    samples = int(seconds * rate)
    return torch.randn(samples, generator=torch.Generator().manual_seed(0)).mul_(torch.linspace(0.001, 0.2, samples)).clamp_(-1, 1)


def spectrogram(name, waveform, bins, length, number=1):
    frontend = find_frontend(name)
    mel = frontend.log_mel(waveform, bins)
    return take_slices(mel, len(mel), bins, slice_plan(len(mel), length, number, training=False), length, frontend)


@pytest.mark.skipif(not PARITY.exists(), reason="../shared/parity/audio is absent")
@pytest.mark.parametrize("name", ["ast.mel64.len512.n2", "beats.mel128.len1024.n1", "beats.mel64.len1024.n1", "beats.mel64.len1024.n2",
                                  "beats.mel64.len512.n3"])
def test_reference_spectrograms(name):
    from safetensors.torch import load_file

    expected = load_file(PARITY / "fbank.safetensors")
    assert len(expected) == 5
    encoder, bins, length, number = name.split(".")
    slices = spectrogram(encoder, read_sound(PARITY / "clip.wav"), int(bins[3:]), int(length[3:]), int(number[1:]))
    assert slices.shape == expected[name].shape
    assert (slices - expected[name].float()).abs().max() < 1e-3


@pytest.mark.parametrize("seconds", [0.4, 2.003, 9.9])
def test_whisper_s_own_extractor(seconds):
    """Every one of the 3,000 frames, silence included."""
    waveform = noise(seconds, 16_000)
    expected = extractor("Whisper", feature_size=80)(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    got = spectrogram("hf_whisper", waveform, 80, 3000)
    assert got.shape == expected.transpose(1, 2).shape and (got - expected.transpose(1, 2)).abs().max() < 1e-4


def test_whisper_s_slices_are_each_brought_to_their_own_loudest():
    waveform = torch.cat([noise(1, 16_000), 1e-3 * noise(1, 16_000)])
    loud, quiet = spectrogram("hf_whisper", waveform, 80, 100, number=2)
    assert quiet.max() < loud.max() - 0.5 and quiet.min() == pytest.approx(max(quiet.max() - 2, -1.5), abs=1e-6)


@pytest.mark.parametrize(("name", "truncation"), [("hf_clap", "rand_trunc"), ("hf_clap_fused", "fusion")])
def test_clap_s_own_extractor(name, truncation):
    """Ten seconds all but a moment: the whole; three seconds: repeated three times, where only the seams differ."""
    clap = extractor("Clap", frequency_min=50, truncation=truncation)
    for seconds, times in ((9.99, 1), (3.0, 3)):
        waveform = noise(seconds, 48_000)
        expected = clap(waveform.numpy(), sampling_rate=48_000, return_tensors="pt").input_features[0, :1].float()
        got = spectrogram(name, waveform, 64, 1001)
        frames = len(FRONTENDS[name].log_mel(waveform, 64))
        assert got.shape == expected.shape
        if times == 1:
            assert (got - expected)[0, :998].abs().max() < 1e-2 and (got[0, frames:] == -100).all()
        else:
            assert torch.allclose(got[0, :298], expected[0, :298], atol=1e-2)
            assert torch.equal(got[0, frames:2 * frames], got[0, :frames]) and (got[0, times * frames:] == -100).all()


def test_ast_s_own_extractor():
    waveform = noise(3, 16_000)
    expected = extractor("AST")(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    got = spectrogram("hf_ast", waveform, 128, 1024)
    assert got.shape == expected.shape and (got - expected).abs().max() < 1e-3
    released = spectrogram("ast", waveform, 128, 1024)
    assert torch.equal(released[:, :298], got[:, :298]) and (released[:, 298:] == 0).all() and (got[:, 298:] > 0.4).all()


def test_number_of_mel_frames():
    assert [mel_frames(n) for n in (0, 399, 400, 559, 560, 32000)] == [0, 0, 1, 1, 2, 198]
    assert BEATS.log_mel(torch.zeros(399), 16).shape == (0, 16)
    # Frame t hears samples up to 160 t + 200: of 16,000 the last to hear some is 101.
    for samples, frames in ((0, 0), (1, 2), (120, 2), (121, 3), (16_000, 102)):
        assert FRONTENDS["hf_whisper"].log_mel(torch.rand(samples), 80).shape == (frames, 80)


@pytest.mark.parametrize("name", FRONTENDS)
def test_a_tone_lights_the_bin_of_its_frequency(name):
    frontend = find_frontend(name)
    rate = frontend.rate or frontend.trained_at
    low, high = (frontend.log_mel(torch.from_numpy(tone(0.5, hertz, rate=rate)), 64, rate=rate).mean(dim=0).argmax()
                 for hertz in (300, 3000))
    # 64 triangles between mel(20) = 31.7 and mel(8000) = 2840: steps of 43.2; mel(300) = 402 → bin 7.6, mel(3000) = 1877 → bin 41.7
    # Slaney's scale, 0 to 8 kHz: steps of 0.696; 300 Hz = 4.5 → 5.5, 3 kHz = 30.98 → 43.5. 50 Hz to 14 kHz: 0.81, from 0.75; 3.6, 36.3.
    # HTK's, 50 Hz to 14 kHz: steps of 50.2 from 77.8; mel(300) = 401.97 → 5.5, mel(3000) = 1876.4 → 34.8
    # VALOR's, 20 Hz to 11,025 Hz = mel 3176: steps of 48.4; 402 → 6.7, 1877 → 37.1
    expected = {"valor_ast": (7, 37), "hf_whisper": (5, 43), "hf_clap": (4, 36), "hf_clap_fused": (5, 35)}.get(name, (7, 41))
    assert abs(low - expected[0]) <= 1 and abs(high - expected[1]) <= 1


@pytest.mark.parametrize(
    ("frames", "length", "number", "expected"),
    [
        (100, 64, 1, [0]),  # padded to 128: 2 slices, of which ceil(2/2)-1
        (10, 64, 3, [0, 1, 2]),  # padded to three slices
        (64, 64, 1, [0]),  # whole already: a slice of zeros is added, 2 slices, the first
        (128, 64, 2, [0, 2]),  # whole already: 3 slices in parts of 2 and 1
        (200, 64, 2, [0, 2]),  # 4 slices in parts of 2 and 2
        (1472, 512, 2, [0, 2]),  # as the reference of AST
    ],
)
def test_slices_in_evaluation(frames, length, number, expected):
    assert slice_plan(frames, length, number, training=False) == expected


def test_slices_hold_the_frames_of_their_indices():
    """The slices that evaluation takes of 200 counted frames."""
    mel = torch.arange(200.0)[:, None].expand(200, 2)
    slices = take_slices(mel, 200, 2, slice_plan(200, 64, 2, training=False), 64, BEATS)
    assert slices[:, :, 0].tolist() == [list(range(64)), list(range(128, 192))]


def test_slices_in_training_are_one_of_each_part():
    """Seven slices in parts of 4 and 3: every one of a part is drawn, none of another."""
    drawn = [slice_plan(400, 64, 2, True, torch.Generator().manual_seed(seed)) for seed in range(60)]
    assert {first for first, _ in drawn} == {0, 1, 2, 3} and {second for _, second in drawn} == {4, 5, 6}


def test_slices_past_the_end_are_silent():
    mel = torch.ones(100, 4)
    for name, silence in (("beats", 0.0), ("ast", 0.0), ("hf_ast", 4.2677393 / (2 * 4.5689974))):
        slices = take_slices(mel, 100, 4, [0, 1, 2], 64, FRONTENDS[name])
        assert slices.shape == (3, 64, 4)
        assert slices[0].eq(1).all() and slices[1, :36].eq(1).all() and torch.allclose(slices[1, 36:], torch.tensor(silence))
        assert torch.allclose(slices[2], torch.tensor(silence))


def test_short_sounds_are_repeated_for_clap():
    mel = torch.arange(5.0)[:, None]
    assert take_slices(mel, 5, 1, [0], 13, FRONTENDS["hf_clap"])[0, :, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, -100, -100, -100]
    assert take_slices(mel, 5, 1, [0, 1], 3, FRONTENDS["hf_clap"])[..., 0].tolist() == [[0, 1, 2], [3, 4, -100]]


def test_an_unknown_front_end_names_the_nearest():
    with pytest.raises(ValueError, match="unknown audio front end 'hf_clapp'.*Did you mean 'hf_clap'"):
        find_frontend("hf_clapp")


def test_a_corpus_is_read_as_the_front_end_asks(corpus, tmp_path):
    """48 kHz sound keeps what is above 8 kHz; a clip without enough of it is silent; what is kept in the cache reads the same."""
    for i, seconds in enumerate((1.0, 0.0005, 1.0)):
        write_wav(tmp_path / "sounds" / f"clip{i}.wav", hertz=12_000, seconds=seconds, rate=48_000)
    config = corpus.config(txt=corpus.annotate("three.json", vast_rows(3)), audio=str(tmp_path / "sounds"), vision=None, task="ret%ta",
                           cache_dir=str(tmp_path / "cache"))
    spec = InputSpec(resolution=16, mel_bins=64, target_length=150, audio_frontend="hf_clap", max_caption_len=10, max_omni_caption_len=10,
                     max_subtitle_len=10, max_answer_len=5)
    first, again = ([IndexedDataset(config, spec, seed=0, training=False).read(0, row) for row in range(3)] for _ in range(2))
    assert first[0].spectrogram.shape == (1, 150, 64) and first[0].spectrogram[0, :100].mean(dim=0).argmax() > 55
    assert first[0].spectrogram[0, 102:].eq(-100).all()
    assert all(torch.equal(a.spectrogram, b.spectrogram) for a, b in zip(first, again))


# --------------------------------------------------------------------------------- VALOR's: sound at each file's own rate

VALOR = {"resolution": 16, "mel_bins": 64, "target_length": 50, "audio_frontend": "valor_ast", "resize": RESIZES["bilinear"],
         "max_caption_len": 10, "max_omni_caption_len": 10, "max_subtitle_len": 10, "max_answer_len": 5}
PADDING = 4.2677393 / (2 * 4.5689974)


def sounds(corpus, folder, rates, **changes):
    """A corpus that sees videos and hears wave files at these rates (None: there is no file)."""
    for i, rate in enumerate(rates):
        if rate:
            write_wav(folder / "sounds" / f"clip{i}.wav", hertz=1_000, seconds=0.4, rate=rate)
    rows = corpus.annotate(f"{folder.name}.json", vast_rows(len(rates)))
    config = corpus.config(**{"txt": rows, "audio": str(folder / "sounds"), "task": "ret%tva", **changes})
    return IndexedDataset(config, InputSpec(**VALOR), seed=0, training=False)


def loudest(sample, part=slice(0, 30)):
    return int(sample.spectrogram[0, part].mean(dim=0).argmax())


def test_each_file_is_heard_at_its_own_rate_and_no_sound_is_zeros(corpus, tmp_path):
    """A tone of 1 kHz lies the lower on the scale the higher the rate. Past the end is padding, which is another value than no sound."""
    first, second, silent = (sounds(corpus, tmp_path, (22_050, 48_000, None)).read(0, row) for row in range(3))
    # mel(1 kHz) = 1000; 22,050 Hz: 65 steps of 48.4 from 31.7 → 19.0; 48,000 Hz: mel(24 kHz) = 4017, steps of 61.3 → 14.8
    assert abs(loudest(first) - 19) <= 1 and abs(loudest(second) - 15) <= 1
    for heard, rate in ((first, 22_050), (second, 48_000)):
        frames = mel_frames(int(0.4 * rate), rate)
        assert frames == 38 and torch.allclose(heard.spectrogram[0, frames:], torch.tensor(PADDING))
    assert silent.spectrogram.eq(0).all() and silent.spectrogram.shape == (1, 50, 64)
    assert [sample.present[Modality.AUDIO] for sample in (first, second, silent)] == [True, True, False]


def test_all_sound_can_be_brought_to_one_rate(corpus, tmp_path):
    """Told by the setting, and kept apart from other rates in the cache."""
    cache = {"cache_dir": str(tmp_path / "cache")}
    for _ in range(2):
        own = [loudest(sounds(corpus, tmp_path, (22_050, 48_000), **cache).read(0, row)) for row in range(2)]
        one = [loudest(sounds(corpus, tmp_path, (22_050, 48_000), audio_sample_rate=22_050, **cache).read(0, row)) for row in range(2)]
        assert own[0] - own[1] >= 3 and abs(one[0] - one[1]) <= 1 and one[0] == own[0]
    config = Config(RunConfig(), ModelConfig(), DataConfig(val=(corpus.config(audio_sample_rate=22_050),)))
    with pytest.raises(DataError, match="dataset 'clips': audio_sample_rate 22050: .* 'beats' takes sound at 16000 Hz and no other"):
        build_loaders(config, None, InputSpec.of(config.model_cfg), torch.device("cpu"))


def test_another_rate_than_the_encoder_was_trained_at_is_told(corpus, tmp_path, caplog):
    sounds(corpus, tmp_path / "trained", (22_050, 22_050))
    assert not [message for message in caplog.messages if "samples a second" in message]
    sounds(corpus, tmp_path / "other", (22_050, 16_000, None))
    (told,) = [message for message in caplog.messages if "samples a second" in message]
    assert "the sound of 1 of its first 2 clips has another rate than the 22050 samples a second" in told and "'clip1' first: 16000" in told
    assert '"audio_sample_rate": 22050 brings all to one' in told
    sounds(corpus, tmp_path / "brought", (16_000,), audio_sample_rate=22_050)
    assert len([message for message in caplog.messages if "samples a second" in message]) == 1


def test_a_rate_at_which_no_sound_is_recorded_is_refused_early(corpus, tmp_path):
    """Where all of the first clips have one, before anything is read; where one of them has, that clip cannot be read."""
    with pytest.raises(DataError, match="the sound of its first clips cannot be right: 100 samples a second in 'clip0'; expected 4,000 to"):
        sounds(corpus, tmp_path / "all", (100, 100))
    clip_id, reason = sounds(corpus, tmp_path / "one", (22_050, 100)).read(0, 1)
    assert clip_id == "clip1" and "its sound has 100 samples a second; expected 4,000 to 192,000" in reason


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s32le", "pcm_f32le", "flac"])
def test_of_several_channels_the_first_is_heard(tmp_path, codec):
    """Packed or planar, ready to be used or not, resampled or not."""
    left, right = tone(0.5, 500, 22_050), tone(0.5, 4_000, 22_050)
    path = tmp_path / f"a.{'flac' if codec == 'flac' else 'wav'}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=22_050, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([left, right]), format="fltp", layout="stereo")
        frame.sample_rate = 22_050
        for part in av.AudioResampler(format=stream.format, layout="stereo", rate=22_050).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    sound = hear(path, Hearing(None, first_channel=True))
    assert sound.rate == 22_050 and np.allclose(sound.waveform.numpy(), left, atol=1e-3)
    other = hear(path, Hearing(16_000, first_channel=True))
    spectrum = torch.fft.rfft(other.waveform).abs()
    assert other.rate == 16_000 and int(spectrum.argmax()) == pytest.approx(500 * len(other.waveform) / 16_000, abs=2)
    assert hear(path, Hearing(None)).waveform.abs().max() > 0.25  # both


def test_the_last_slice_repeats_where_there_are_too_few():
    assert slice_plan(10, 64, 3, training=False, last_repeats=True) == [0, 0, 0]
    assert slice_plan(64, 64, 3, training=False, last_repeats=True) == [0, 1, 1]  # whole already: a slice of padding follows
    assert slice_plan(200, 64, 2, training=False, last_repeats=True) == slice_plan(200, 64, 2, training=False) == [0, 2]
