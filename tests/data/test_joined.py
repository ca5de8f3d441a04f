"""Several datasets as one corpus, and epochs of whole batches."""

from __future__ import annotations

import pytest

from omnivast.data.annotations.identity import changes
from omnivast.data.dataset import IndexedDataset
from omnivast.data.joined import JoinedDataset, corpora_of
from omnivast.data.loader import TrainLoader
from omnivast.data.mixture import planned_steps
from omnivast.data.spec import DataError
from tests.data.conftest import vast_rows


def part(corpus, spec, name, rows, joined="both", **more):
    config = corpus.config(name=name, joined=joined, task="ret%tv", txt=corpus.annotate(f"{name}.json", rows), **more)
    return IndexedDataset(config, spec, seed=1, training=True)


def test_the_clips_of_all_stand_one_after_the_other(corpus, spec):
    rows = vast_rows()
    both = JoinedDataset("both", [part(corpus, spec, "one", rows[:3]), part(corpus, spec, "two", rows[3:])])
    assert (len(both), both.name, both.config.name, str(both.task)) == (8, "both", "both", "ret%tv")
    samples = [both.sample(0, row) for row in range(8)]
    assert [(sample.clip_id, sample.index) for sample in samples] == [(f"clip{i}", i) for i in range(8)]
    assert both.read(0, 5).clip_id == "clip5" and [row.clip_id for row in both.annotations] == [f"clip{i}" for i in range(8)]


def test_its_fingerprint_is_that_of_all_its_parts(corpus, spec):
    rows = vast_rows()
    one, two, other = (part(corpus, spec, name, own) for name, own in (("one", rows[:3]), ("two", rows[3:]), ("other", rows[4:])))
    before = JoinedDataset("both", [one, two]).identity()
    assert changes(before, JoinedDataset("both", [one, two]).identity()) == []
    (difference,) = changes(before, JoinedDataset("both", [one, other]).identity())
    assert "8 rows, now 7, of other content" in difference


def test_a_training_draws_batches_from_all(corpus, spec, tokenizer):
    rows = vast_rows()
    configs = [corpus.config(name=name, joined=joined, task="ret%tv", txt=corpus.annotate(f"{name}.json", own), epoch=1)
               for name, own, joined in (("one", rows[:2], "both"), ("own", rows[:4], ""), ("two", rows[2:], "both"))]
    loader = TrainLoader(configs, spec, tokenizer, seed=3)
    assert [(c.name, c.rows, c.steps) for c in loader.corpora] == [("both", 8, 2), ("own", 4, 1)]
    read = [batch for batch in loader if batch.corpus == "both"]
    assert sorted(clip_id for batch in read for clip_id in batch.clip_ids) == [f"clip{i}" for i in range(8)]
    assert any({int(i) < 2 for i in batch.index} == {True, False} for batch in read)


def test_what_cannot_be_joined(corpus, spec):
    rows = vast_rows()
    plain = [{"clip_id": row["clip_id"], "desc": "x"} for row in rows]
    with pytest.raises(DataError, match="'one' and 'plain' are joined as 'both', but only one has several kinds of captions"):
        corpora_of([part(corpus, spec, "one", rows), part(corpus, spec, "plain", plain)])


def test_whole_batches(corpus):
    config = corpus.config(epoch=3, batch_size=3, whole_batches=True)
    assert (planned_steps(config, 8, 1), planned_steps(config, 8, 2)) == (6, 3)
    assert planned_steps(corpus.config(epoch=2.5, batch_size=3, whole_batches=True), 8, 1) == 5
    assert planned_steps(corpus.config(epoch=3, batch_size=3), 8, 1) == 8
    with pytest.raises(DataError, match="its 2 clips do not fill a step of 3, and whole_batches counts whole ones alone"):
        planned_steps(config, 2, 1)
