from pathlib import Path

import pytest
import torch

from data.audio import log_mel, mel_frames, slice_plan, take_slices
from data.media import read_sound
from tests.media_factory import tone

PARITY = Path(__file__).parents[2].parent / "shared" / "parity" / "audio"


@pytest.mark.skipif(not PARITY.exists(), reason="../shared/parity/audio is absent")
def test_reference_spectrograms():
    from safetensors.torch import load_file

    waveform = read_sound(PARITY / "clip.wav")
    for name, expected in load_file(PARITY / "fbank.safetensors").items():
        frontend, *sizes = name.split(".")
        bins, length, number = (int(size[3:] if size[0] in "ml" else size[1:]) for size in sizes)
        mel = log_mel(waveform, bins, frontend)
        slices = take_slices(mel, len(mel), bins, slice_plan(len(mel), length, number, training=False), length)
        assert slices.shape == expected.shape, name
        assert (slices - expected.float()).abs().max() < 1e-3, name


def test_number_of_mel_frames():
    assert [mel_frames(n) for n in (0, 399, 400, 559, 560, 32000)] == [0, 0, 1, 1, 2, 198]
    assert log_mel(torch.zeros(399), 16).shape == (0, 16)


def test_a_tone_lights_the_bin_of_its_frequency():
    low, high = (log_mel(torch.from_numpy(tone(0.5, hertz)), 64).mean(dim=0).argmax() for hertz in (300, 3000))
    # 64 triangles between mel(20) = 31.7 and mel(8000) = 2840: steps of 43.2; mel(300) = 402 → bin 7.6, mel(3000) = 1877 → bin 41.7
    assert low in (7, 8) and high in (41, 42)


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


def test_slices_past_the_end_are_zero():
    mel = torch.ones(100, 4)
    slices = take_slices(mel, 100, 4, [0, 1, 2], 64)
    assert slices.shape == (3, 64, 4)
    assert slices[0].eq(1).all() and slices[1, :36].eq(1).all() and slices[1, 36:].eq(0).all() and slices[2].eq(0).all()
