"""An index as a table, and as an index of FAISS."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from omnivast.inference.cli import search
from omnivast.inference.index import export
from omnivast.inference.index.api import Index
from omnivast.inference.index.store import BadIndexError, File, Meta, Place, Store
from omnivast.model.interface import Rows


@pytest.fixture
def index(model, media, tmp_path):
    return Index(media, model, folder=tmp_path / "index", window=2.0, stride=1.0)


def test_a_table_has_every_moment_with_its_vectors(index, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(export, "AT_ONCE", 4)
    table = parquet.read_table(index.export(tmp_path / "new" / "index.parquet"))
    rows = table.to_pylist()
    places = index.store.places(range(len(index)))
    assert [(row["path"], row["start"], row["end"], row["tracks"]) for row in rows] == [
        (place.path, place.start, place.end, place.tracks) for place in places]
    assert next(row["said"] for row in rows if row["path"] == "said.mp4") == "hello welcome today the car"
    for key in index.store.meta.groups:
        for row, vector in zip(rows, index.store.vectors(key)["vector"]):
            assert (row[key] is None) == (not set(key) <= set(row["tracks"]))
            if row[key] is not None:
                np.testing.assert_array_equal(np.array(row[key], np.float16), vector)
    assert json.loads(table.schema.metadata[b"omnivast"])["weights"] == index.store.meta.weights
    assert sorted(one.name for one in (tmp_path / "new").iterdir()) == ["index.parquet"]


def test_moments_that_are_gone_are_not_exported(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    meta = Meta("model", "hash", {}, 5.0, 2.5, ["v"], {"v": {"one": [2, 3], "two": [1]}}, "/root", "0")
    with Store.write(tmp_path / "index", meta) as store:
        for number, path in enumerate(("a.mp4", "b.mp4", "c.mp4")):
            store.append({"v": Rows({"one": torch.full((1, 2, 3), float(number)), "two": torch.full((1, 1), float(number))})})
            store.commit([(File(path, 1, 1), [(Place(path, 0.0, 1.0, "v"), "")])])
        store.remove(["b.mp4"])
        rows = parquet.read_table(export.export_index(store, tmp_path / "index.parquet")).to_pylist()
    assert [(row["path"], row["v.one"], row["v.two"]) for row in rows] == [("a.mp4", [0.0] * 6, [0.0]), ("c.mp4", [2.0] * 6, [2.0])]


def test_faiss_holds_vectors_alone(tmp_path):
    pytest.importorskip("faiss")
    meta = Meta("model", "hash", {}, 5.0, 2.5, ["v"], {"v": {"one": [2, 3], "two": [1]}}, "/root", "0")
    with Store.write(tmp_path / "index", meta) as store:
        store.append({"v": Rows({"one": torch.zeros(1, 2, 3), "two": torch.zeros(1, 1)})})
        store.commit([(File("a.mp4", 1, 1), [(Place("a.mp4", 0.0, 1.0, "v"), "")])])
        with pytest.raises(BadIndexError, match="compares by more than a vector .one, two."):
            export.export_index(store, tmp_path / "index.faiss")


def test_faiss_finds_what_the_index_finds(index, model, tmp_path):
    faiss = pytest.importorskip("faiss")
    path = index.export(tmp_path / "index.faiss", group="v")
    facts = json.loads((tmp_path / "index.faiss.json").read_text())
    scores, numbers = faiss.read_index(str(path)).search(model.embed_texts("a red car")["vector"].numpy(), 3)
    found = index.search("a red car", weights={"seen": 1}, top=3, merge=False)
    assert [tuple(facts["moments"][number]) for number in numbers[0]] == [(one.path, one.start, one.end) for one in found]
    np.testing.assert_allclose(scores[0], [one.score for one in found], atol=1e-5)


def test_what_cannot_be_exported_is_said(index, tmp_path):
    with pytest.raises(BadIndexError, match="an index is exported as parquet or faiss"):
        index.export(tmp_path / "index.bin")
    with pytest.raises(BadIndexError, match="has no vectors of group 'sv'; it has those of vas"):
        index.export(tmp_path / "index.parquet", group="sv")
    assert list(tmp_path.iterdir()) == [index.folder]


def test_an_empty_index_is_not_exported(tmp_path):
    with (Store.write(tmp_path / "index", Meta("m", "h", {}, 5.0, 2.5, ["v"], {}, "/root", "0")) as store,
          pytest.raises(BadIndexError, match="is empty")):
        export.export_index(store, tmp_path / "index.parquet")


def test_the_verb(index, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    assert search([str(index.folder), "--export", str(tmp_path / "x.parquet"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(tmp_path / "x.parquet"), "moments": len(index)}
    assert search([str(index.folder), "a dog", "--export", str(tmp_path / "y.parquet")]) == 2
    assert search([str(index.folder), "a dog", "--group", "va"]) == 2
    assert capsys.readouterr().err.count("--export") == 2
