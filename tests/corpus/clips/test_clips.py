"""Shots → clips by recipes, on sources whose frames and looks are written by hand."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from omnivast.corpus.boundaries.detector import Transition
from omnivast.corpus.clips.calibrate import distances, join_distance
from omnivast.corpus.clips.choose import spread
from omnivast.corpus.clips.looks import WIDTH, look_of
from omnivast.corpus.clips.pieces import Source, clips_of
from omnivast.corpus.clips.recipes import RECIPES, RecipeError, recipe_named
from omnivast.corpus.split import Split, Times, spans

FPS = 10


def cut(frame):
    return Transition(frame, frame, "cut", 1.0)


def look(angle):
    """A unit vector; two that are ``a`` apart in angle are 2 sin(a/2) apart in distance."""
    return np.array([np.cos(angle), np.sin(angle), *np.zeros(WIDTH - 2)], np.float16)


def source(seconds, boundaries, angle_at, join=0.6, doubts=None):
    """``angle_at``: second → angle of what the frame looks like then."""
    frames = seconds * FPS
    at = list(range(0, frames, 5))
    times = Times(Fraction(1, FPS), 0, [[1, frames - 1]])
    return Source(Split(FPS, frames, times, boundaries, doubts or [], at, np.stack([look(angle_at(frame / FPS)) for frame in at])), join)


def seconds_of(source, recipe):
    clips, dropped = clips_of(source, recipe)
    return [(clip.first / FPS, clip.end / FPS) for clip in clips], dict(dropped)


def test_shots_leave_out_the_frames_of_transitions():
    boundaries = [cut(30), Transition(50, 59, "dissolve", 0.9), Transition(90, 99, "fade", 0.9)]
    assert spans(boundaries, 100) == [(0, 30), (30, 50), (60, 90)] and spans([], 5) == [(0, 5)] and spans([cut(0)], 5) == [(0, 5)]


def test_a_cautious_recipe_ends_shots_at_what_may_be_a_transition():
    doubts = [Transition(38, 44, "dissolve", 0.9), Transition(70, 75, "dissolve", 0.1), Transition(72, 72, "cut", 0.2)]
    known = source(10, [Transition(40, 42, "dissolve", 0.9)], lambda t: 0.1 * t, doubts=doubts)
    shots = RECIPES["shots"]
    assert seconds_of(known, shots)[0] == [(0, 4), (4.3, 10)]
    assert seconds_of(known, replace(shots, cautious=True))[0] == [(0, 3.8), (4.5, 7), (7.6, 10)]


def test_the_paper_cuts_takes_of_five_seconds_and_joins_what_is_alike():
    """One shot of 12 s that turns slowly: three takes, joined; a second one that looks otherwise, not."""
    known = source(20, [cut(120)], lambda t: 0.02 * t if t < 12 else 2 + 0.05 * t)
    paper = replace(RECIPES["panda_paper"], trim=0, redundant=0)
    assert seconds_of(known, paper) == ([(0, 12), (12, 20)], {})
    assert seconds_of(known, replace(paper, join=0, still=0))[0] == [(0, 5), (5, 10), (10, 12), (12, 17), (17, 20)]


def test_the_code_leaves_a_rest_of_less_than_two_seconds_with_the_last_take():
    known = source(11, [], lambda t: 0.05 * t)
    code = replace(RECIPES["panda_code"], join=0)
    assert seconds_of(known, code)[0] == [(0, 5), (5, 11)]
    assert seconds_of(source(7, [], lambda t: 0.05 * t), code)[0] == [(0, 7)]


def test_each_reason_to_drop_a_clip():
    paper = replace(RECIPES["panda_paper"], trim=0)
    changes = source(4, [], lambda t: 0.7 * t)  # 0.1 to 0.9 of 4 s: an angle of 2.2, a distance of 1.8
    assert seconds_of(changes, paper) == ([], {"changes within": 1})
    assert seconds_of(source(4, [], lambda t: 0.001 * t), paper) == ([], {"still": 1})
    assert seconds_of(source(1, [], lambda t: 0.3 * t), paper) == ([], {"short": 1})
    again = source(12, [cut(40), cut(80)], lambda t: (0, 1.5, 0)[int(t // 4)] + 0.1 * (t % 4))
    assert seconds_of(again, paper) == ([(0, 4), (4, 8)], {"redundant": 1})


def test_length_and_trim():
    known = source(100, [], lambda t: 0.01 * t)
    assert seconds_of(known, RECIPES["panda_paper"]) == ([(6, 54)], {})  # no clip of Panda-70M is longer than 48 s
    assert seconds_of(known, RECIPES["panda_code"])[0] == [(0, 100)]
    assert seconds_of(known, RECIPES["vast"])[0] == [(0, 25), (25, 50), (50, 75), (75, 100)]
    assert seconds_of(known, RECIPES["fixed"])[0] == [(n, n + 5) for n in range(0, 100, 5)]


def test_thresholds_follow_the_calibrated_distance():
    known = source(10, [], lambda t: 0.015 * t)  # first and last 0.12 apart: still at 0.15
    assert seconds_of(known, replace(RECIPES["panda_paper"], take=0)) == ([], {"still": 1})
    other = source(10, [], lambda t: 0.015 * t, join=0.3)
    assert seconds_of(other, replace(RECIPES["panda_paper"], take=0, trim=0))[0] == [(0, 10)]


def test_a_recipe_that_is_none():
    with pytest.raises(RecipeError, match="no recipe 'panda_papr'.*Did you mean 'panda_paper'"):
        recipe_named("panda_papr")


def test_calibration_finds_the_distance_between_shots_and_within_them():
    split = source(120, [cut(n) for n in range(100, 1200, 100)], lambda t: 1.0 * (int(t // 10) % 5) + 0.004 * t).split
    within, across = distances(split)
    assert within.max() < 0.05 and across.min() > 0.5
    join, errors = join_distance([split], 0.6)
    assert 0 < join < 0.6 and errors == 0 and within.max() <= join < across.min()
    assert join_distance([source(3, [], lambda t: t).split], 0.6) == (0.6, None)


def test_clips_are_spread_evenly_and_by_nothing_but_the_seed():
    sources = ["a"] * 30 + ["b"] * 3 + ["c"] * 10 + ["d"] * 10
    chosen = spread(sources, 20)
    counts = {source: sum(sources[n] == source for n in chosen) for source in "abcd"}
    assert counts["b"] == 3 and max(counts[s] for s in "acd") - min(counts[s] for s in "acd") <= 1 and sum(counts.values()) == 20
    assert chosen == spread(sources, 20) == sorted(chosen) and chosen != spread(sources, 20, seed=1)
    assert spread(sources, 100) == list(range(53)) and spread([], 5) == []


def test_times_are_exact_and_short():
    pts = np.array([7, 9, 11, 13, 20, 22])
    times = Times.of(pts, Fraction(1, 90))
    assert times.steps == [[2, 3], [7, 1], [2, 1]] and times.pts().tolist() == [*pts, 24] and Times.from_json(times.to_json()) == times
    assert Times.of(pts[:1], Fraction(1, 100)).pts().tolist() == [7, 11]


def test_looks_tell_frames_apart():
    frames = np.random.default_rng(0).integers(0, 256, (3, 27, 48, 3), dtype=np.uint8)
    frames[1] = np.clip(frames[0] + 3.0, 0, 255)
    looks = look_of(frames).astype(np.float32)
    assert looks.shape == (3, WIDTH) and np.allclose(np.linalg.norm(looks, axis=1), 1, atol=1e-3)
    assert looks[0] @ looks[1] > 0.97 > looks[0] @ looks[2]
