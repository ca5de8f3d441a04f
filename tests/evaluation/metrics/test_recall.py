import numpy as np
import pytest

from omnivast.evaluation.metrics import recall
from omnivast.evaluation.metrics.recall import ranks, reranked_ranks, summary


def test_ranks_count_ties_against_the_true_clip():
    scores = np.array([
        [0.9, 0.1, 0.2, 0.3],  # true 0: first
        [0.5, 0.5, 0.1, 0.0],  # true 1: ties with clip 0, so second
        [0.3, 0.3, 0.3, 0.3],  # true 2: all tie, so last
        [0.4, 0.6, 0.5, 0.1],  # true 3: last
    ])
    found = ranks(scores, np.arange(4), np.arange(4))
    assert found.tolist() == [1, 2, 4, 4]
    assert summary(found) == {"r1": 25.0, "r5": 100.0, "r10": 100.0, "r50": 100.0, "median_rank": 3.0, "mean_rank": 2.75}


def test_several_texts_per_clip_in_both_directions():
    # Texts 0 and 1 belong to clip 0, text 2 to clip 1, text 3 to clip 2.
    clip_of_text = np.array([0, 0, 1, 2])
    scores = np.array([
        [0.8, 0.7, 0.1],
        [0.2, 0.6, 0.3],
        [0.9, 0.5, 0.4],
        [0.1, 0.2, 0.9],
    ])
    assert ranks(scores, clip_of_text, np.arange(3)).tolist() == [1, 3, 2, 1]
    # Clip 0: its better text (0.8) is beaten by text 2 (0.9), its other text never counts. Clip 1: 0.5 behind 0.7 and 0.6.
    assert ranks(scores.T, np.arange(3), clip_of_text).tolist() == [2, 3, 1]


def test_several_clips_per_text():
    # Two clips share what is written about them: either is right for each text.
    scores = np.array([[0.2, 0.9, 0.5], [0.6, 0.1, 0.7]])
    assert ranks(scores, np.array([7, 7]), np.array([7, 7, 8])).tolist() == [1, 2]


def test_reranked_ranks_put_the_first_k_before_the_others():
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6]])
    queries, candidates = np.array([1, 3, 0]), np.arange(4)
    first = ranks(scores, queries, candidates)
    assert first.tolist() == [2, 4, 1]
    top = np.array([[0, 1], [0, 1], [0, 1]])
    second = np.array([[0.1, 0.9], [0.9, 0.9], [0.4, 0.4]])
    # Query 0 rises to the first place, query 1 is outside the first two and stays, query 2 ties and falls behind.
    assert reranked_ranks(first, top, second, queries, candidates).tolist() == [1, 4, 2]


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_ranks_do_not_depend_on_the_chunks(chunk, monkeypatch):
    monkeypatch.setattr(recall, "row_chunks", lambda rows: [slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk)])
    scores = np.random.default_rng(0).integers(0, 6, (17, 9)).astype(float)
    keys = np.arange(17) % 9
    expected = [1 + sum(s >= row[key] for c, s in enumerate(row) if c != key) for row, key in zip(scores, keys)]
    assert ranks(scores, keys, np.arange(9)).tolist() == expected


def test_errors_name_the_query():
    with pytest.raises(ValueError, match="query 1 has no true candidate"):
        ranks(np.zeros((2, 2)), np.array([0, 5]), np.arange(2))
    with pytest.raises(ValueError, match="query 1 are not all numbers"):
        ranks(np.array([[0.0, 1.0], [0.0, np.nan]]), np.arange(2), np.arange(2))
    with pytest.raises(ValueError, match="2 queries and 3 candidates"):
        ranks(np.zeros((2, 2)), np.arange(2), np.arange(3))
    with pytest.raises(ValueError, match="no query"):
        summary([])
