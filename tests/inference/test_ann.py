"""The approximate index: what it finds, what it must not return, and when it is made anew; by hand-made vectors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from omnivast.config.tasks import Modality
from omnivast.inference.index import ann as approximate
from omnivast.inference.index.ann import Ann, AnnError, Facts, by_axes, is_due, principal_axes, recall
from omnivast.inference.index.api import Index
from omnivast.inference.index.query import Part, Searcher
from omnivast.inference.index.store import File, Meta, Place, Store
from omnivast.inference.index.weights import track_weights
from omnivast.model.gram.model import GRAM
from omnivast.model.interface import Model, Rows

pytest.importorskip("usearch", reason="usearch is not installed")

GROUPS = ("va", "v", "a")
WIDTH = 16


def vectors(count, seed):
    """Clustered unit vectors (count, WIDTH) of each group, of which each is drawn by itself."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(20, WIDTH))
    found = {}
    for group in GROUPS:
        x = centres[rng.integers(20, size=count)] + 0.5 * rng.normal(size=(count, WIDTH))
        found[group] = Rows({"vector": torch.nn.functional.normalize(torch.tensor(x, dtype=torch.float32), dim=1)})
    return found


def add(folder, names, tracks, seed):
    shapes = {group: {"vector": [WIDTH]} for group in GROUPS}
    with Store.write(folder, Meta("run", "abc", {}, 5, 2.5, list(GROUPS), shapes, "/media", "0")) as store:
        rows = vectors(len(names), seed)
        for group in GROUPS:
            if not set(group) <= set(tracks):
                rows[group]["vector"].zero_()
        store.append(rows)
        store.commit([(File(name, 1, 1), [(Place(name, 0, 5, tracks), "")]) for name in names])


def text(seed):
    return Part(1.0, text=vectors(1, seed)["v"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """1,500 moments that are seen and heard and 600 that are silent have graphs; 50 of sound alone are too few for one."""
    monkeypatch.setattr(approximate, "SCANNED", 500)
    monkeypatch.setattr(approximate, "NEAR", 50)
    for names, tracks, seed in ((1500, "va", 1), (600, "v", 2), (50, "a", 3)):
        add(tmp_path, [f"{tracks}{n}" for n in range(names)], tracks, seed)
    Searcher(Store.read(tmp_path), Model(), vectors(30, 4)["v"]).make_ann()
    return tmp_path


def pair(folder):
    """(exact, approximate) searchers."""
    return Searcher(Store.read(folder), Model()), Searcher(Store.read(folder), Model(), None, Ann.of(folder))


@pytest.mark.parametrize("weights", [None, {"seen": 1}, {"heard": 1}, {"seen": 1, "heard": 0.3}])
def test_it_finds_what_the_exact_search_finds_with_the_same_scores(folder, weights):
    exact, near = pair(folder)
    assert near.ann.facts.graphs == {"v": ["v"], "va": ["va", "v", "a"]}
    for seed in range(10, 20):
        query = [text(seed), Part(-0.5, text=text(seed + 50).text)]
        wanted, found = (own.search(query, weights=weights, merge=False) for own in (exact, near))
        common = {one.path: one for one in wanted}
        assert sum(one.path in common for one in found) >= 9
        for one in found:
            if one.path in common:
                assert one.score == pytest.approx(common[one.path].score, abs=1e-6)
        rows = near.near(query, track_weights(weights))
        assert len(rows) < 500  # of 2,150: most are not looked at


def test_what_has_gone_is_not_found_and_what_is_new_is(folder):
    exact, near = pair(folder)
    best = [one.path for one in near.search([text(10)], top=20, merge=False)]
    with Store.write(folder, Store.read(folder).meta) as store:
        store.remove(best)
    add(folder, [f"new{n}" for n in range(100)], "va", 9)
    exact, near = pair(folder)
    found = [one.path for one in near.search([text(10)], top=20, merge=False)]
    assert found and not set(found) & set(best)
    own = Part(1.0, clip={group: rows.rows(slice(0, 1)) for group, rows in vectors(100, 9).items()})
    assert near.search([own], top=1)[0].path == "new0"


def test_the_recall_is_measured_where_it_is_made(folder):
    facts = json.loads((folder / "ann" / "facts.json").read_text())
    assert facts["texts"] == 30
    assert set(facts["recall"]) == {"equal", "seen", "heard"}
    assert all(0.9 <= share <= 1 for share in facts["recall"].values())
    assert "of the 10 best it finds" in Ann.of(folder).facts.words


def test_graphs_hold_vectors_by_their_principal_axes(monkeypatch):
    """As unit vectors, so that an angle in the graph is ordered as a product along the axes."""
    monkeypatch.setattr(approximate, "AXES", 3)
    rng = np.random.default_rng(0)
    narrow = rng.normal(size=(200, 3)) @ rng.normal(size=(3, WIDTH)) + 0.01 * rng.normal(size=(200, WIDTH))
    x = (narrow / np.linalg.norm(narrow, axis=1, keepdims=True)).astype(np.float32)
    axes = principal_axes(x)
    assert axes.shape == (WIDTH, 3)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-5)
    held = by_axes(x, axes)
    np.testing.assert_allclose(np.linalg.norm(held, axis=1), 1, atol=1e-5)
    query = rng.normal(size=WIDTH).astype(np.float32)
    np.testing.assert_allclose(held @ np.append(query @ axes, 0), x @ query, atol=0.2)
    assert principal_axes(x[:, :2]).shape == (2, 2)


def test_it_finds_by_few_axes(tmp_path, monkeypatch):
    """Most of what tells moments apart lies off the axes; those found are compared by all of it."""
    monkeypatch.setattr(approximate, "SCANNED", 500)
    monkeypatch.setattr(approximate, "AXES", 8)
    add(tmp_path, [str(n) for n in range(2000)], "va", 1)
    Searcher(Store.read(tmp_path), Model(), vectors(30, 4)["v"]).make_ann()
    exact, near = pair(tmp_path)
    for seed in range(10, 15):
        wanted, found = (own.search([text(seed)], merge=False) for own in (exact, near))
        assert sum(one in wanted for one in found) >= 8
    assert near.ann.facts.recall["equal"] >= 0.9


def test_a_search_reads_the_rows_it_compares_and_no_others(folder):
    """A million moments held as float32 would take gigabytes."""
    searcher, read = pair(folder)[1], []

    class Recorded(np.ndarray):
        def __getitem__(self, rows):
            found = np.asarray(self)[rows]
            read.append(len(found))
            return found

    searcher.vectors = {group: {name: x.view(Recorded) for name, x in own.items()} for group, own in searcher.vectors.items()}
    searcher.search([text(10)])
    assert 0 < sum(read) < 500  # of 2,150


def test_recall_by_hand():
    exact = np.array([0.9, 0.8, 0.8, 0.1, -np.inf], np.float32)
    assert recall(exact, np.array([0.9, 0.1]), count=2) == 0.5
    assert recall(exact, np.array([0.9, 0.8]), count=2) == 1  # either of two that are equal
    assert recall(exact, exact, count=10) == 1


def test_calibration_agrees_with_the_exact_one(folder):
    background = vectors(30, 4)["v"]
    exact = Searcher(Store.read(folder), Model(), background).nulls(track_weights(None), frozenset(Modality))
    near = Searcher(Store.read(folder), Model(), background, Ann.of(folder)).nulls(track_weights(None), frozenset(Modality))
    np.testing.assert_allclose(near, exact, atol=0.02)


@pytest.mark.parametrize(("rows", "moments", "due"), [(100, 100, False), (110, 110, False), (111, 111, True), (100, 89, True),
                                                       (105, 99, True)])
def test_it_is_made_anew_when_a_tenth_has_changed(rows, moments, due):
    class Known:
        facts = Facts(100, 100, {}, 0, 0)

    assert is_due(Known, rows, moments, None) == due


def test_it_is_made_when_asked_for_or_when_there_are_many():
    assert not is_due(None, 10, 10, None)
    assert is_due(None, 10, 10, True)
    assert is_due(None, 300_001, 300_001, None)


def test_without_usearch_all_is_compared_and_that_is_told(folder, monkeypatch, caplog):
    monkeypatch.setattr(approximate, "is_installed", lambda module: False)
    assert Ann.of(folder) is None
    assert 'pip install "omnivast[ann]"' in caplog.text
    assert not is_due(None, 300_001, 300_001, None)


def test_one_of_another_version_is_not_used_and_that_is_told(folder, caplog):
    facts = json.loads((folder / "ann" / "facts.json").read_text())
    del facts["format"]
    (folder / "ann" / "facts.json").write_text(json.dumps(facts))
    assert Ann.of(folder) is None
    assert "omnivast index --ann makes it anew" in caplog.text


def test_models_that_compare_otherwise_are_refused(folder):
    class Other(Model):
        similarity = GRAM.similarity

    with pytest.raises(AnnError, match="otherwise than by a product"):
        Searcher(Store.read(folder), Other()).make_ann()


def test_an_index_is_made_with_it_and_searched_by_it(model, media, tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "SCANNED", 0)
    files = shutil.copytree(media, tmp_path / "files")
    exact = Index(files, model, window=2.0, stride=1.0)
    assert exact.ann is None
    index = Index(files, model, window=2.0, stride=1.0, ann=True)
    assert index.ann.facts.graphs == {"v": ["v"], "a": ["a"], "va": ["va", "v", "a"], "vas": ["vas", "va", "vs", "v", "a", "s"]}
    assert [one.path for one in index.search("a red car", top=5)] == [one.path for one in exact.search("a red car", top=5)]
    made = index.ann.folder.stat().st_mtime_ns
    assert Index(files, model, window=2.0, stride=1.0).ann.folder.stat().st_mtime_ns == made
    (files / "said.mp4").unlink()
    again = Index(files, model, window=2.0, stride=1.0)
    assert again.ann.folder.stat().st_mtime_ns != made
    assert "vas" not in again.ann.facts.graphs
