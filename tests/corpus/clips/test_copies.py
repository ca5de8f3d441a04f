"""Clips that are copies of others, and those that only look like them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from omnivast.config.extras import is_installed
from omnivast.corpus.clips import copies as module
from omnivast.corpus.clips.copies import Seen, copies, neighbours
from omnivast.corpus.clips.movement import PARTS, Movement, alike


def moving(seed, moments=60):
    """A clip whose light wanders."""
    rng = np.random.default_rng(seed)
    light = rng.uniform(60, 180, PARTS) + rng.normal(0, 4, (moments, PARTS)).cumsum(0)
    return np.clip(light, 20, 220).round().astype(np.uint8)


def seen(vector, moved):
    vector = np.asarray(vector, np.float32) / np.linalg.norm(vector)
    return Seen(vector, vector, moved)


def test_movement_is_counted_by_time_and_not_by_frames():
    """25 and 50 frames a second of the same light, and a stretch without frames, in which the last one is seen."""
    def rows(fps, batches):
        movement = Movement(Fraction(1, 1000))
        for frames in batches:
            pts = np.array([round(1000 * frame / fps) for frame in frames])
            light = (pts // 125 * 3).astype(np.uint8)
            movement.add(np.broadcast_to(light[:, None, None, None], (len(pts), 27, 48, 3)), pts)
        return movement.first, movement.rows()
    first, slow = rows(25, [range(50), range(50, 100)])
    assert first == 0 and slow.shape == (32, PARTS) and slow[:, 0].tolist() == [3 * n for n in range(32)]
    assert np.array_equal(rows(50, [range(77), range(77, 200)])[1], slow)
    first, broken = rows(25, [range(25, 30), range(50, 60)])
    assert first == 8 and broken[:, 5].tolist() == [24, 27, 27, 27, 27, 27, 27, 27, 48, 51, 54]


def test_two_clips_are_laid_over_each_other_at_every_offset():
    whole = moving(1, 100)
    darker = np.clip(whole * 0.7 + 8, 0, 255).astype(np.uint8)
    assert alike(whole, darker) > 0.98 and alike(whole[30:90], whole[10:70]) > 0.98 and alike(whole[20:50], whole) > 0.98
    assert alike(whole[:40], whole[60:]) < 0.8 and alike(whole, moving(2, 100)) < 0.8
    mirrored = whole.reshape(-1, 3, 4)[:, :, ::-1].reshape(-1, PARTS)
    assert alike(whole, mirrored) < 0.88
    assert alike(whole, np.full_like(whole, 90)) is None


def test_the_same_movement_before_another_ground_is_no_copy():
    drift = np.linspace(0, 40, 60)[:, None]
    one, other = (np.random.default_rng(seed).uniform(40, 200, PARTS) + drift for seed in (1, 2))
    assert alike(one.astype(np.uint8), one.astype(np.uint8)) > 0.99 > 0.7 > alike(one.astype(np.uint8), other.astype(np.uint8))


def test_a_copy_is_found_and_another_moment_of_the_scene_is_not():
    one, two = moving(1, 80), moving(2, 80)
    clips = [seen([1, 0, 0], one), seen([1, 0.1, 0], two), seen([1, 0, 0.1], one[10:70]), seen([0, 1, 0], one), seen([1, 0, 0], one)]
    assert copies(clips).tolist() == [-1, -1, 0, -1, 0] and copies([]).tolist() == []  # the fourth looks otherwise
    still = np.full((40, PARTS), 100, np.uint8)
    shown = [seen([1, 0, 0], still), seen([1, 0.01, 0], still), seen([1, 0.3, 0], still)]
    assert copies(shown).tolist() == [-1, 0, -1]
    of_a_copy = [clips[0], clips[2], replace(clips[0], moved=one[5:60])]
    assert copies(of_a_copy).tolist() == [-1, 0, 0]  # what is left out stands for nothing


@pytest.mark.parametrize("block", [4096, 7])
def test_what_lies_near_is_found_whatever_the_blocks(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 8)).astype(np.float32)
    vectors[[20, 45, 59]] = vectors[[3, 3, 30]] + 0.001
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = dict(neighbours(vectors, 0.05))
    assert list(found) == list(range(60))
    assert {row: sorted(near) for row, near in found.items() if near} == {20: [3], 45: [3, 20], 59: [30]}
    monkeypatch.setattr(module, "MOST", 1)
    assert all(len(near) <= 1 for _, near in neighbours(vectors, 1.0))


@pytest.mark.skipif(not is_installed("faiss"), reason="needs faiss")
def test_with_very_many_clips_faiss_finds_them(monkeypatch):
    monkeypatch.setattr(module, "MANY", 100)
    monkeypatch.setattr(module, "BLOCK", 64)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1000, 16)).astype(np.float32)
    vectors[500:] = vectors[:500] + 0.001
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = dict(neighbours(vectors, 0.05))
    assert sum(row - 500 in near for row, near in found.items() if row >= 500) >= 490 and not any(found[row] for row in range(500))
