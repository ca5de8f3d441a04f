"""Clips by several recipes: what counts as holding a boundary, and LPIPS."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.clips import holds, is_clean, told
from benchmarks.perceptual import TAPS, Lpips
from omnivast.config.extras import is_installed
from omnivast.corpus.boundaries.compose import Happening

CUT, DISSOLVE = Happening(50, 50, "cut"), Happening(40, 59, "dissolve")


def test_a_clip_holds_a_boundary_when_both_sides_are_seen():
    assert holds((0, 100), CUT) and holds((47, 53), CUT) and not holds((48, 100), CUT) and not holds((0, 52), CUT)
    assert holds((0, 100), DISSOLVE) and not holds((38, 100), DISSOLVE) and not holds((0, 62), DISSOLVE) and holds((0, 63), DISSOLVE)
    assert is_clean((50, 100), [CUT]) and is_clean((0, 50), [CUT]) and not is_clean((49, 100), [CUT])
    assert is_clean((60, 100), [DISSOLVE]) and is_clean((0, 40), [DISSOLVE]) and not is_clean((0, 41), [DISSOLVE])


def test_a_row_of_the_table():
    row = told([[(0, 50, 2.0, 0.1)], [(0, 100, 4.0, 0.3)]], [[CUT], [CUT]], [100, 100])
    assert (row["clips"], row["mean_seconds"], row["max_running_lpips"], row["hold_a_boundary"], row["clean"], row["kept"]) == (
        2, 3.0, 0.2, 0.5, 0.5, 0.75)
    assert row["intervals"]["seconds"] == [2.0, 4.0] and told([[]], [[]], [9]) == {"clips": 0}


@pytest.mark.skipif(is_installed("lpips"), reason="lpips is installed")
def test_without_the_heads_it_says_what_to_install():
    with pytest.raises(ImportError, match=r'lpips is not installed: pip install "omnivast\[lpips\]"'):
        Lpips()


def test_it_is_the_distance_of_the_package():
    lpips = pytest.importorskip("lpips")
    ours = Lpips(seed=3)
    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    begins = (0, *(tap + 1 for tap in TAPS))
    with torch.no_grad():
        for number, layer in enumerate(ours._trunk):
            if isinstance(layer, torch.nn.Conv2d):
                part = sum(number >= begin for begin in begins)
                copy = getattr(theirs.net, f"slice{part}").get_submodule(str(number))
                copy.weight.copy_(layer.weight)
                copy.bias.copy_(layer.bias)
        pictures = np.random.default_rng(0).integers(0, 256, (20, 90, 160, 3), dtype=np.uint8)
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        wanted = theirs(pixels[:-1], pixels[1:]).flatten().numpy()
    assert ours.name == "random AlexNet of seed 3" and np.allclose(ours.running(pictures), wanted, atol=1e-5)
    assert np.array_equal(Lpips(seed=3).running(pictures[:3]), ours.running(pictures[:3])) and len(ours.running(pictures[:1])) == 0
