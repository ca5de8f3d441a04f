"""Hard negatives in the batches of a training, and files of them that do not fit."""

import json

import pytest

from omnivast.config.schema import DatasetConfig
from omnivast.config.tasks import Task
from omnivast.data.mixture import Corpus, Mixture
from omnivast.data.spec import DataError
from tests.data.test_loader import train_loader

HARD = {row: [(row + 1) % 12, (row + 5) % 12] for row in range(11)}
"""Of twelve clips, none of the last."""


def mixture(hard, seed=1):
    return Mixture([Corpus("c", 12, 40, Task.parse("ret%tv"), 6, DatasetConfig(), hard_negatives=hard)], seed=seed)


def test_every_second_clip_is_a_hard_negative_of_the_one_before():
    plain, own = mixture(None), mixture(HARD)
    drawn = set()
    for step in range(40):
        before, rows = ([row for _, row in m.batch(step, 0)[1]] for m in (plain, own))
        assert rows[::2] == before[::2] and len(set(rows)) == 6
        for place in (1, 3, 5):
            hard = HARD.get(rows[place - 1], [])
            if rows[place] != before[place]:
                assert rows[place] in hard
                drawn.add((rows[place - 1], hard.index(rows[place])))
            else:  # what the batch has already is not taken twice, and the last clip has none
                assert all(row in rows or row in before for row in hard)
    assert {which for _, which in drawn} == {0, 1} and len(drawn) > 10


def test_a_step_is_the_same_whenever_it_is_asked_for():
    in_order = [mixture(HARD).batch(step, 0) for step in range(5)]
    fresh = mixture(HARD)
    assert [fresh.batch(step, 0) for step in reversed(range(5))] == in_order[::-1]
    assert in_order != [mixture(HARD, seed=2).batch(step, 0) for step in range(5)]


def test_the_loader_reads_the_file(corpus, spec, tokenizer, tmp_path):
    path = tmp_path / "hard.json"
    path.write_text(json.dumps({f"clip{n}": [f"clip{n}", f"clip{(n + 3) % 8}"] for n in range(7)}))
    loader = train_loader(corpus, spec, tokenizer, changes=({"task": "ret%tv", "batch_size": 4, "hard_negatives": str(path)},))
    assert loader.corpora[0].hard_negatives == {n: [(n + 3) % 8] for n in range(7)}
    assert train_loader(corpus, spec, tokenizer).corpora[0].hard_negatives is None


@pytest.mark.parametrize("content, changes, message", [
    ('{"clip0": ["clip1"]}', {"batch_size": 3}, "dataset 'c0': with hard_negatives .* batch_size must be even; got 3"),
    ('{"clip0": ["clip1", "clap2"]}', {}, "hard.json: 'clap2' is no clip of .* Did you mean 'clip2'\\? Was it mined in another split"),
    ('{"other": []}', {}, "'other' is no clip of"),
    ('["clip0"]', {}, "hard.json: expected a JSON object with clip ids and a list"),
    (None, {}, "hard.json: no such file of hard negatives .*hard_negatives of dataset 'c0'"),
])
def test_files_that_do_not_fit(corpus, spec, tokenizer, tmp_path, content, changes, message):
    path = tmp_path / "hard.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        train_loader(corpus, spec, tokenizer, changes=({"task": "ret%tv", "batch_size": 4, "hard_negatives": str(path), **changes},))
