from collections import Counter

import pytest
import torch

from omnivast.config.schema import DatasetConfig
from omnivast.config.tasks import Task
from omnivast.data.mixture import Corpus, Mixture, planned_steps, scale_steps
from omnivast.data.spec import DataError


def corpora(*sizes):
    task = Task.parse("ret%tv")
    return [Corpus(f"c{i}", rows, steps, task, batch, DatasetConfig()) for i, (rows, steps, batch) in enumerate(sizes)]


def test_planned_steps():
    assert planned_steps(DatasetConfig(epoch=3, batch_size=4), rows=10, accumulation=1) == 8  # 30 clips in batches of 4
    assert planned_steps(DatasetConfig(epoch=3, batch_size=4), rows=10, accumulation=2) == 4
    assert planned_steps(DatasetConfig(epoch=0.5, batch_size=4), rows=10, accumulation=1) == 2
    assert planned_steps(DatasetConfig(steps=7, batch_size=4), rows=10, accumulation=3) == 7
    with pytest.raises(DataError, match="neither"):
        planned_steps(DatasetConfig(name="x"), 10, 1)
    with pytest.raises(DataError, match="both"):
        planned_steps(DatasetConfig(name="x", epoch=1, steps=2), 10, 1)


def test_scaled_steps_keep_their_shares():
    assert scale_steps([10, 20, 30], None) == [10, 20, 30]
    assert scale_steps([10, 20, 30], 12) == [2, 4, 6]
    assert scale_steps([1, 1, 1], 100) == [34, 33, 33]
    assert scale_steps([100, 1], 3) == [3, 0]


@pytest.mark.parametrize("mix, accumulation", [("random", 1), ("in-order", 2), ("interleaved", 3)])
def test_steps_that_are_left_are_counted_by_what_they_read(mix, accumulation):
    mixture = Mixture(corpora((10, 8, 2), (10, 3, 2), (10, 0, 2)), seed=3, mix=mix, accumulation=accumulation)
    for start in (0, 4, 10, 11):
        read = ({mixture.corpora[mixture.corpus_at(step, micro)].name for micro in range(accumulation)} for step in range(start, 11))
        assert mixture.steps_by_corpora(start) == Counter("+".join(sorted(names)) for names in read)


@pytest.mark.parametrize("mix", ["random", "round-robin", "in-order"])
def test_every_corpus_gets_exactly_its_steps(mix):
    mixture = Mixture(corpora((10, 30, 2), (10, 10, 2), (10, 0, 2)), seed=3, mix=mix)
    assert mixture.total_steps == 40
    order = [mixture.corpus_at(step) for step in range(40)]
    assert Counter(order) == {0: 30, 1: 10}
    again = Mixture(corpora((10, 30, 2), (10, 10, 2), (10, 0, 2)), seed=3, mix=mix)
    assert order == [again.corpus_at(step) for step in range(40)]
    if mix == "round-robin":
        assert all(Counter(order[k : k + 4]) == {0: 3, 1: 1} for k in range(0, 40, 4))
    elif mix == "in-order":
        assert order == [0] * 30 + [1] * 10
    else:
        other = Mixture(corpora((10, 30, 2), (10, 10, 2), (10, 0, 2)), seed=4)
        assert order != [other.corpus_at(step) for step in range(40)]


@pytest.mark.parametrize("mix", ["random", "round-robin", "in-order", "interleaved"])
def test_a_longer_run_begins_as_it_was_planned(mix):
    options = {"seed": 3, "accumulation": 2, "mix": mix}
    sizes = [(10, 6, 2), (10, 4, 2)]
    longer = [(10, 13, 2), (10, 9, 2)]
    first, whole = Mixture(corpora(*sizes), **options), Mixture(corpora(*longer), **options, plan=[[6, 4], [13, 9]])
    assert whole.total_steps == 22
    places = [(step, micro) for step in range(22) for micro in range(2)]
    assert [whole.batch(*place) for place in places[:20]] == [first.batch(*place) for place in places[:20]]
    read = {0: [], 1: []}
    for place in places:
        corpus, rows = whole.batch(*place)
        read[corpus] += [position for position, _ in rows]
    assert read == {0: [*range(52)], 1: [*range(36)]}


def test_equal_corpora_take_turns():
    mixture = Mixture(corpora((5, 4, 1), (5, 4, 1)), seed=0, mix="round-robin")
    assert [mixture.corpus_at(step) for step in range(8)] == [0, 1] * 4


def test_every_row_once_per_epoch_in_a_new_order_each_time():
    mixture = Mixture(corpora((10, 9, 4), (6, 6, 3)), seed=1, accumulation=2)
    read = {0: [], 1: []}
    for step in range(mixture.total_steps):
        for micro in range(2):
            corpus, batch = mixture.batch(step, micro)
            assert [position for position, _ in batch] == list(range(len(read[corpus]), len(read[corpus]) + len(batch)))
            read[corpus] += [row for _, row in batch]
    assert (len(read[0]), len(read[1])) == (72, 36)
    for corpus, rows in ((0, 10), (1, 6)):
        epochs = [tuple(read[corpus][k : k + rows]) for k in range(0, len(read[corpus]) - rows + 1, rows)]
        assert all(sorted(epoch) == list(range(rows)) for epoch in epochs)
        assert len(set(epochs)) > len(epochs) / 2


def test_interleaved_steps_hold_several_corpora():
    """Micro-batches in proportion to the corpora's steps, in every step as evenly as they can be, and each corpus's rows in order."""
    mixture = Mixture(corpora((10, 6, 4), (7, 2, 3)), seed=3, accumulation=4, mix="interleaved")
    assert mixture.total_steps == 8
    order = [[mixture.corpus_at(step, micro) for micro in range(4)] for step in range(8)]
    assert all(Counter(step) == {0: 3, 1: 1} for step in order)
    read = {0: [], 1: []}
    for step in range(8):
        for micro in range(4):
            corpus, batch = mixture.batch(step, micro)
            assert corpus == order[step][micro] and [position for position, _ in batch] == [*range(len(read[corpus]),
                                                                                                 len(read[corpus]) + len(batch))]
            read[corpus] += [row for _, row in batch]
    assert (len(read[0]), len(read[1])) == (6 * 4 * 4, 2 * 4 * 3) and sorted(read[0][:10]) == list(range(10))
    fresh = Mixture(corpora((10, 6, 4), (7, 2, 3)), seed=3, accumulation=4, mix="interleaved")
    assert fresh.batch(5, 2) == mixture.batch(5, 2)  # from the seed and the step alone
    three = Mixture(corpora((9, 4, 1), (9, 4, 1), (9, 4, 1)), seed=0, accumulation=3, mix="interleaved")
    assert all([three.corpus_at(step, micro) for micro in range(3)] == [0, 1, 2] for step in range(12))


def test_few_shards_at_a_time():
    shards = torch.tensor([0] * 4 + [1] * 4 + [2] * 4 + [3] * 3)
    config = DatasetConfig(shuffle_shards=2)
    mixture = Mixture([Corpus("c", 15, 30, Task.parse("ret%tv"), 3, config, shards)], seed=2)
    rows = [row for step in range(30) for _, row in mixture.batch(step, 0)[1]]
    epochs = [rows[start : start + 15] for start in range(0, 90, 15)]
    firsts = set()
    for epoch in epochs:
        assert sorted(epoch) == list(range(15))
        kinds = [int(shards[row]) for row in epoch]
        size = sum(int((shards == kind).sum()) for kind in set(kinds[:6]))
        assert len(set(kinds[:size])) == 2 and not set(kinds[:size]) & set(kinds[size:])
        assert kinds[:size] != sorted(kinds[:size])  # mixed among themselves
        firsts.add(frozenset(kinds[:size]))
    assert len(firsts) > 1


def test_any_step_can_be_asked_first():
    whole = Mixture(corpora((10, 9, 4), (6, 6, 3)), seed=1, accumulation=2)
    in_order = [whole.batch(step, micro) for step in range(15) for micro in range(2)]
    fresh = Mixture(corpora((10, 9, 4), (6, 6, 3)), seed=1, accumulation=2)
    assert [fresh.batch(step, micro) for step in reversed(range(15)) for micro in (1, 0)] == in_order[::-1]
