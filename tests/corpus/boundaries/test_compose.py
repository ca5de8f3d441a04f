"""Composed videos hold the transitions that they say, to the frame."""

from __future__ import annotations

import numpy as np
import pytest

from omnivast.corpus.boundaries.compose import Style, compose, next_shot
from omnivast.corpus.boundaries.distractors import DISTRACTORS
from omnivast.corpus.boundaries.transitions import dissolve, drawn, fade, push, wipe

SHOTS = [np.full((90, 27, 48, 3), level, np.uint8) for level in (20, 60, 100, 140, 180, 220)]


def still(level, count=10):
    return np.full((count, 8, 12, 3), level, np.uint8)


def test_no_frame_of_a_dissolve_is_wholly_one_shot_and_the_middle_is_half():
    frames = dissolve(still(0, 9), still(200, 9), "linear")
    assert frames[:, 0, 0, 0].tolist() == [20, 40, 60, 80, 100, 120, 140, 160, 180]


def test_a_fade_goes_through_its_colour():
    frames = fade(still(100), still(200), "linear", 0, out=4, hold=2)[:, 0, 0, 0]
    assert frames.tolist() == [80, 60, 40, 20, 0, 0, 40, 80, 120, 160]


def test_an_edge_moves_over_the_frame():
    frames = wipe(still(0, 5), still(200, 5), "linear", angle=0.0, soft=0.0)
    shares = (frames[:, 0, :, 0] == 200).mean(1)
    assert (np.diff(shares) > 0).all() and shares[0] > 0 and shares[-1] < 1
    assert (frames[2, 0, :5, 0] == 200).all() and (frames[2, 0, -5:, 0] == 0).all()


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("over", [False, True])
def test_a_push_moves_both_and_a_slide_one(backwards, over):
    old = np.tile(np.arange(12, dtype=np.uint8)[None, None, :, None], (3, 8, 1, 3))
    frames = push(old, old + 100, "linear", across=True, backwards=backwards, over=over)[1, 0, :, 0].tolist()
    front, back = list(range(6)), list(range(6, 12))
    kept = {(False, False): back, (False, True): front, (True, False): front, (True, True): back}
    coming = list(range(106, 112)) if backwards else list(range(100, 106))
    assert frames == (coming + kept[backwards, over] if backwards else kept[backwards, over] + coming)


def test_every_transition_leaves_neither_shot_whole():
    rng = np.random.default_rng(0)
    for kind in ("dissolve", "fade", "wipe") * 20:
        frames = drawn(kind, still(50, 12), still(200, 12), rng, ("linear", "smooth"))
        assert frames.shape == (12, 8, 12, 3)
        assert not (frames[0] == 50).all() and not (frames[-1] == 200).all() and not (frames[0] == 200).all()


def test_what_is_between_transitions_is_one_shot():
    kinds = set()
    for seed in range(40):
        composed = compose(SHOTS, 6, np.random.default_rng(seed), Style(frames=(6, 30), distractors=0))
        start = 0
        for one in [*composed.transitions, None]:
            end = len(composed.frames) if one is None else one.first
            assert end - start >= 5 and len(np.unique(composed.frames[start:end])) == 1
            if one is not None:
                kinds.add(one.kind)
                assert one.kind != "cut" or one.first == one.last
                assert one.kind == "cut" or 6 <= one.last - one.first + 1 <= 30
                start = one.first if one.kind == "cut" else one.last + 1
                assert one.kind != "cut" or composed.frames[start, 0, 0, 0] != composed.frames[start - 1, 0, 0, 0]
    assert kinds == {"cut", "dissolve", "fade", "wipe"}


def test_distractors_change_what_they_say_and_nothing_else():
    shot = np.random.default_rng(0).integers(60, 200, (80, 27, 48, 3), dtype=np.uint8)
    for kind, change in DISTRACTORS.items():
        for seed in range(4):
            frames, end = change(shot, 20, np.random.default_rng(seed))
            assert frames.shape == shot.shape and frames.dtype == np.uint8 and end > 20
            if kind != "pan":  # one that zooms out shows the part that it comes from before
                assert (frames[:20] == shot[:20]).all() or kind == "shake"
            if kind in ("flash", "strobe", "overlay", "inset", "passing", "stutter"):
                assert (frames[end:] == shot[end:]).all()
            assert (frames != shot).any()


def test_neighbours_are_alike_as_often_as_asked():
    looks = np.arange(40.0)[:, None]
    near = [abs(next_shot(looks, 20, 0.75, np.random.default_rng(seed)) - 20) <= 3 for seed in range(400)]
    assert 0.75 < np.mean(near) < 0.87 and next_shot(looks[:1], 0, 1.0, np.random.default_rng(0)) == 0


def test_neighbours_can_be_told_apart():
    same = [SHOTS[2], SHOTS[2] + 1, SHOTS[2] + 2, SHOTS[5]]
    sides = []
    for seed in range(20):
        composed = compose(same, 4, np.random.default_rng(seed), Style(joins=(1, 0, 0, 0), distractors=0, jumps=0, bursts=0, alike=0.5))
        levels = composed.frames[:, 0, 0, 0].astype(int)
        sides += [abs(levels[one.first] - levels[one.first - 1]) for one in composed.transitions]
    assert np.mean(np.array(sides) >= 6) > 0.95


def test_jumps_are_seen_and_bursts_are_short():
    moving = [np.repeat(np.arange(150, dtype=np.uint8)[:, None] + level, 27 * 48 * 3, 1).reshape(150, 27, 48, 3) for level in (0, 50, 100)]
    found = [compose(moving, 5, np.random.default_rng(seed), Style(jumps=1, distractors=0, bursts=0)) for seed in range(4)]
    jumps = [(one.first, composed) for composed in found for one in composed.transitions if one.kind == "jump"]
    assert jumps
    for first, composed in jumps:
        assert abs(int(composed.frames[first, 0, 0, 0]) - int(composed.frames[first - 1, 0, 0, 0])) > 6
    burst = compose(SHOTS, 4, np.random.default_rng(1), Style(bursts=1, joins=(1, 0, 0, 0)))
    assert sum(b.first - a.first < 25 for a, b in zip(burst.transitions, burst.transitions[1:])) >= 4
