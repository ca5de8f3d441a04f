"""The index of reference captions: the same numbers counted, remembered, and read back from the cache folder."""

import json

import pytest

from omnivast.evaluation.captions import references
from omnivast.evaluation.captions.references import reference_index
from omnivast.evaluation.metrics.cider import cider
from tests.evaluation.metrics.test_caption_metrics import corpus


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(references, "_recent", {})
    monkeypatch.setattr(references, "WORTH_KEEPING", 100)


def scores(index, candidates):
    return [index.cider.scores(clip, [candidate])[0] for clip, candidate in enumerate(candidates)]


def test_remembered_and_cached_frequencies_give_the_same_scores(monkeypatch):
    candidates, texts = corpus(60)
    expected = cider(candidates, texts)[1]
    index = reference_index(texts)
    assert scores(index, candidates) == pytest.approx(expected, abs=1e-9)
    assert reference_index([list(own) for own in texts]) is index
    files = list(references.cache_folder().glob("*.json"))
    assert len(files) == 1 and all(count > 1 for count in json.loads(files[0].read_text())["frequency"].values())
    references._recent.clear()
    monkeypatch.setattr(references, "tokenize", None)
    monkeypatch.setattr(references, "document_frequency", None)
    assert scores(reference_index(texts), candidates) == pytest.approx(expected, abs=1e-9)


def test_other_references_are_counted_anew_and_a_broken_cache_too():
    candidates, texts = corpus(60)
    reference_index(texts)
    changed = [*texts[:-1], ["something else"]]
    assert scores(reference_index(changed), candidates) == pytest.approx(cider(candidates, changed)[1], abs=1e-9)
    for path in references.cache_folder().glob("*.json"):
        path.write_text('{"tokens": ')
    references._recent.clear()
    assert scores(reference_index(texts), candidates) == pytest.approx(cider(candidates, texts)[1], abs=1e-9)


def test_few_references_write_no_file_and_an_unwritable_folder_does_no_harm(tmp_path, monkeypatch):
    reference_index([["a dog"], ["a cat"]])
    assert not references.cache_folder().exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    candidates, texts = corpus(60)
    assert scores(reference_index(texts), candidates) == pytest.approx(cider(candidates, texts)[1], abs=1e-9)
