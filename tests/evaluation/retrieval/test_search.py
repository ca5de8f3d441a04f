"""Search in parts against whole tables, and the dual softmax by hand."""

import numpy as np
import pytest
import torch

from omnivast.evaluation.metrics import recall
from omnivast.evaluation.retrieval import search as module
from omnivast.evaluation.retrieval.search import search
from omnivast.model.interface import DUAL_TEMPERATURE as TEMPERATURE


def found_by(queries, candidates, *arguments, **settings):
    """Search by the product of one vector each."""
    return search({"vector": queries}, {"vector": candidates}, lambda one, other: one["vector"] @ other["vector"].T, *arguments, **settings)


def table(queries, candidates):
    return np.asarray(queries, dtype=np.float32) @ np.asarray(candidates, dtype=np.float32).T


@pytest.mark.parametrize(("scores_at_once", "candidates_at_once"), [(1, 1), (20, 7), (50, 7), (10**6, 10**6)])
def test_parts_on_disk_and_in_memory_equal_the_whole_table(tmp_path, monkeypatch, scores_at_once, candidates_at_once):
    monkeypatch.setattr(module, "SCORES_AT_ONCE", scores_at_once)
    monkeypatch.setattr(module, "CANDIDATES_AT_ONCE", candidates_at_once)
    rng = np.random.default_rng(0)
    # Eighths: products are exact whatever their order, and many tie.
    queries, candidates = ((rng.integers(-2, 3, (n, 6)) / 8).astype(np.float16) for n in (41, 23))
    for name, features in (("q", queries), ("c", candidates)):
        mapped = np.memmap(tmp_path / name, dtype=np.float16, mode="w+", shape=features.shape)
        mapped[:] = features
        mapped.flush()
    on_disk = [np.memmap(tmp_path / name, dtype=np.float16, mode="r", shape=shape) for name, shape in (("q", (41, 6)), ("c", (23, 6)))]
    in_memory = [torch.from_numpy(features.astype(np.float32)) for features in (queries, candidates)]
    keys, numbers = rng.integers(0, 23, 41), np.arange(23)
    scores = table(queries, candidates)
    wide = scores.astype(np.float64)
    dual = wide * np.exp(wide / TEMPERATURE) / np.exp(wide / TEMPERATURE).sum(0)
    for parts in (on_disk, in_memory):
        found = found_by(*parts, keys, numbers, 5, dual_softmax=True)
        assert found.ranks.tolist() == recall.ranks(scores, keys, numbers).tolist()
        assert found.dual_ranks.tolist() == recall.ranks(dual, keys, numbers).tolist()
        assert np.take_along_axis(scores, found.top, 1).tolist() == (-np.sort(-scores, axis=1)[:, :5]).tolist()
    assert found_by(*in_memory, keys, numbers, 5).dual_ranks is None


def test_dual_softmax_by_hand():
    """Candidate 0 is liked by every query, but most by query 0: the others let go of it."""
    queries, candidates = torch.eye(3), torch.tensor([[0.90, 0.80, 0.80], [0.0, 0.79, 0.0], [0.0, 0.0, 0.79]])
    numbers = np.arange(3)
    found = found_by(queries, candidates, numbers, numbers, 3, dual_softmax=True)
    assert found.ranks.tolist() == [1, 2, 2]
    assert found.dual_ranks.tolist() == [1, 1, 1]


def test_similarities_far_apart_do_not_become_ties():
    """In float32 exp(-200) is 0, and every such candidate would tie."""
    queries, candidates = torch.tensor([[1.0], [-1.0]]), torch.tensor([[0.9], [0.8], [0.7]])
    found = found_by(queries, candidates, np.array([0, 0]), np.arange(3), 1, dual_softmax=True)
    scores = np.array([[0.9, 0.8, 0.7], [-0.9, -0.8, -0.7]])
    prior = np.exp(scores / TEMPERATURE) / np.exp(scores / TEMPERATURE).sum(0)
    assert len(set((scores * prior)[1])) == 3 and found.dual_ranks.tolist() == [1, 1]


def test_the_temperature_is_the_models():
    candidates, numbers = torch.tensor([[0.90, 0.80, 0.80], [0.0, 0.79, 0.0], [0.0, 0.0, 0.79]]), np.arange(3)
    scores = candidates.T.double().numpy()
    for temperature, wanted in ((0.01, [1, 1, 1]), (100.0, [1, 2, 2])):  # hot: the softmax is flat
        found = found_by(torch.eye(3), candidates, numbers, numbers, 3, dual_softmax=True, temperature=temperature)
        assert found.dual_ranks.tolist() == recall.ranks(scores * np.exp(scores / temperature) / np.exp(scores / temperature).sum(0),
                                                         numbers, numbers).tolist() == wanted


def test_a_stream_of_candidates_equals_the_whole_table(monkeypatch):
    """With candidates that are the same as others of the same block and of earlier ones, and queries with several true ones. Parts of the
    queries have three each, blocks four candidates."""
    rng = np.random.default_rng(1)
    queries, candidates = ((rng.integers(-2, 3, (n, 6)) / 8).astype(np.float16) for n in (3 * 64, 30))
    same = np.arange(30)
    same[[3, 9, 14, 15, 29]] = [1, 8, 2, 2, 8]
    candidates[same != np.arange(30)] = 0.5  # never to be seen: the scores of those that they are the same as count
    keys, numbers = rng.integers(0, 20, 3 * 64), np.arange(30) % 20
    also = np.array([(0, 14), (5, 3), (5, 29), (190, 0)])
    arguments = keys, numbers, 7
    whole = found_by(torch.from_numpy(queries).float(), torch.from_numpy(candidates).float(), *arguments, also=also, same=same,
                     dual_softmax=True)
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 13)
    held = []
    score = lambda one, other: held.append(one["vector"] @ other["vector"].T) or held[-1]  # noqa: E731
    found = search({"vector": queries}, {"vector": candidates}, score, *arguments, also=also, same=same, dual_softmax=True)
    assert found.ranks.tolist() == whole.ranks.tolist() and found.dual_ranks.tolist() == whole.dual_ranks.tolist()
    scores = table(queries, candidates)[:, same]
    for top in (found.top, whole.top):
        assert np.take_along_axis(scores, top, 1).tolist() == (-np.sort(-scores, axis=1)[:, :7]).tolist()
        assert all(len(set(row)) == 7 for row in top.tolist())
    assert {x.shape for x in held} == {(3, 4), (3, 2)}


def test_a_stream_names_the_query_that_cannot_be_ranked(monkeypatch):
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 2)
    queries, candidates = np.ones((3, 2), np.float16), np.ones((4, 2), np.float16)
    with pytest.raises(ValueError, match="query 2 has no true candidate"):
        found_by(queries, candidates, np.array([0, 1, 9]), np.arange(4), 1)
    queries[1] = np.nan
    with pytest.raises(ValueError, match="query 1 are not all numbers"):
        found_by(queries, candidates, np.array([0, 1, 2]), np.arange(4), 1)
