"""By which track and which second a moment was found."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from omnivast.inference.index.api import Index
from tests.inference.test_query import searcher, store, text, unit  # noqa: F401
from tests.media_factory import grey, write_image, write_video


def test_the_track_whose_absence_changes_the_score_most(store):  # noqa: F811
    own = searcher(store)
    for group in own.known:  # of the moment by all tracks: what is heard is along the query, what is seen and said are not
        own.vectors[group] = {"vector": np.array(own.vectors[group]["vector"])}
        own.vectors[group]["vector"][0] = unit(1, 0, 0) if "a" in group.key else unit(0, 1, 0)
    found = own.search([text(1, 0, 0)], top=1)[0]
    assert (found.path, found.by) == ("all.mp4", "heard")
    # Without what is seen, the model's scores by sound, 1, and by words, 0, count alike: it has no group of both.
    assert found.changes == pytest.approx({"seen": 0.5, "heard": 1, "said": 0}, abs=1e-3)


def test_a_track_that_is_alone_is_the_reason(store):  # noqa: F811
    found = {one.path: one for one in searcher(store).search([text(0, 1, 0)], top=9)}
    assert [(found[f"{name}.mp4"].by, found[f"{name}.mp4"].changes) for name in ("silent", "sound")] == [("seen", {}), ("heard", {})]
    (said,) = searcher(store).search([text(1, 0, 0)], top=9, weights={"said": 1})
    assert (said.by, said.changes) == ("said", {})


def test_changes_are_differences_of_scores(store):  # noqa: F811
    own = searcher(store)
    found = own.search([text(1, 0, 0)], top=1, weights={"seen": 1, "heard": 1})[0]
    silent = own.search([text(1, 0, 0)], top=1, weights={"seen": 1})[0]
    assert found.changes["heard"] == pytest.approx(found.score - silent.score, abs=1e-6)


@pytest.fixture
def rising(tmp_path):
    """A video of 6 s that grows brighter from second to second, and a picture."""
    images = np.stack([np.full((64, 64, 3), grey(8 * (n // 10), 48), np.uint8) for n in range(60)])
    (tmp_path / "files").mkdir()
    write_video(tmp_path / "files" / "rising.mp4", images=images, fps=10)
    write_image(tmp_path / "files" / "picture.png")
    return tmp_path / "files"


@pytest.mark.parametrize("second", [0, 3, 5])
def test_the_second_that_fits_best(model, rising, second):
    index = Index(rising, model, window=6.0, stride=3.0)
    like = np.full((2, 64, 64, 3), grey(8 * second, 48), np.uint8)
    found = {one.path: one for one in index.search(like=like, explain=True)}
    assert (found["rising.mp4"].by, found["rising.mp4"].second) == ("seen", pytest.approx(second, abs=0.1))
    assert found["picture.png"].second is None
    assert all(one.second is None for one in index.search(like=like))


def test_words_with_times_name_their_second(model, media, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    shutil.copy(media / "said.mp4", folder)
    shutil.copy(media / "said.srt", folder)
    index = Index(folder, model)
    found = index.search("the car", weights={"said": 1}, explain=True)[0]
    assert (found.by, found.second) == ("said", 1.0)
    (folder / "said.srt").unlink()
    (folder / "said.txt").write_text("hello welcome today the car")
    assert Index(folder, model).search("the car", weights={"said": 1}, explain=True)[0].second is None  # words without times


def test_a_file_that_is_gone_is_told_and_the_rest_explained(model, rising, caplog):
    index = Index(rising, model, window=2.0, stride=1.0)
    (rising / "rising.mp4").unlink()
    found = index.search("a man", explain=True)
    assert len(found) > 1
    assert all(one.second is None for one in found)
    assert "rising.mp4: cannot be read again" in caplog.text
    assert torch.is_inference_mode_enabled() is False
