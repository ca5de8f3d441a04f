"""Whether data are still those that a training began with: by content, and with what differs."""

import json
import os
import shutil

import pytest

from omnivast.config.tasks import Task
from omnivast.data.annotations import columns, load, table
from omnivast.data.annotations.identity import changes, identity
from omnivast.data.annotations.load import load_annotations
from omnivast.data.dataset import IndexedDataset
from omnivast.data.shards.pack import pack
from tests.data.conftest import vast_rows
from tests.data.sharding import packing, sharded
from tests.media_factory import write_json

TASK = Task.parse("ret%tv")


def of_rows(tmp_path, rows, **spelling):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, **spelling))
    return identity(load_annotations(path, TASK, training=True), None)


@pytest.fixture(params=["in memory", "mapped"])
def rows_of(request, tmp_path, monkeypatch):
    """Identities of rows in blocks of 4."""
    monkeypatch.setattr(table, "BLOCK", 4)
    if request.param == "mapped":
        pytest.importorskip("pyarrow")
        monkeypatch.setattr(load, "MAPPED_FROM", 0)
        monkeypatch.setattr(columns, "ROWS", 4)
    return lambda rows, **spelling: of_rows(tmp_path, rows, **spelling)


def test_what_differs_in_the_rows_is_said(rows_of):
    rows = [{"video_id": f"c{i}", "desc": f"text {i}"} for i in range(10)]
    before = rows_of(rows)
    assert len(before["marks"]) == 3 * 16 and json.loads(json.dumps(before)) == before
    assert changes(before, rows_of(rows, indent=2)) == []  # another spelling of the same rows
    (told,) = changes(before, rows_of([*rows[:5], {**rows[5], "desc": "other"}, *rows[6:]]))
    assert "10 rows as before, the first that differs among rows 4 to 7; 1 of 3 blocks" in told
    (told,) = changes(before, rows_of([*rows[:9]]))
    assert "10 rows, now 9, the first that differs among rows 8 to 9; 1 of 3" in told
    (told,) = changes(before, rows_of(rows[1:] + rows[:1]))
    assert "10 rows as before, the first that differs among rows 0 to 3; 3 of 3" in told


def test_files_without_marks_are_compared_as_files(rows_of):
    """Such as were converted by an older version, or have become large enough to be mapped."""
    rows = [{"video_id": f"c{i}", "desc": f"text {i}"} for i in range(10)]
    before, now = rows_of(rows), rows_of(rows[:9])
    for older in ({**before, "marks": ""}, {**before, "block": 5}, {**before, "format": 0}):
        assert changes(older, before) == []
        (told,) = changes(older, now)
        assert told.endswith("10 rows, now 9, of other content")


def test_shards_are_compared_by_content(corpus, packed, spec, tmp_path):
    def now(folder):
        dataset = IndexedDataset(sharded(corpus, folder), spec, seed=1, training=True)
        return dataset.identity(), dataset.shards.paths

    before, _ = now(packed)
    shutil.copytree(packed, tmp_path / "copy", ignore=shutil.ignore_patterns("*index*", "*texts*"))
    for path in (tmp_path / "copy").glob("*.tar"):
        os.utime(path)
    assert changes(before, now(tmp_path / "copy")[0]) == []  # another place and time
    rows = vast_rows()
    rows[0], rows[1] = rows[1], rows[0]
    pack(packing(corpus, tmp_path / "anew", txt=str(write_json(tmp_path / "order.json", rows))))
    found, paths = now(tmp_path / "anew")
    texts, shards = changes(before, found, paths)
    assert "8 rows as before" in texts
    assert "shards of 8 clips, now" in shards and "not the same" in shards and paths[0] in shards
