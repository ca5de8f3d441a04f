"""An index of a folder: made, kept up to date, interrupted, refused."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3

import numpy as np
import pytest

from omnivast.data.media.errors import MediaError
from omnivast.inference.index import build
from omnivast.inference.index.api import Index
from omnivast.inference.index.store import BadIndexError, Store, read_meta
from omnivast.inference.loading import Loaded
from omnivast.inference.pipeline import load
from tests.media_factory import write_video


@pytest.fixture
def files(media, tmp_path):
    return shutil.copytree(media, tmp_path / "files")


def content(folder):
    """All that an index holds, comparable."""
    vectors = {path.name: path.read_bytes() for path in sorted((folder / "vectors").iterdir())}
    with sqlite3.connect(folder / "clips.sqlite") as clips:
        tables = {name: clips.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in ("files", "moments", "said", "counts")}
    return vectors, tables


def test_files_become_moments_and_what_cannot_be_read_is_named(model, files):
    index = Index(files, model, window=2.0, stride=1.0)
    assert index.folder == files / ".omnivast"
    assert (index.report.files, index.report.new, len(index)) == (6, 6, 5 + 1 + 1 + 1 + 1)
    assert set(index.report.faults) == {"cut.mp4"}
    places = index.store.places(range(len(index)))
    assert [(place.path, place.tracks) for place in places] == [("b/long.mp4", "va")] * 5 + [
        ("picture.png", "v"), ("said.mp4", "vas"), ("silent.mp4", "v"), ("sound.wav", "a")]


def test_a_short_clip_is_kept_as_the_model_embeds_it(model, files):
    index = Index(files, model)
    row = next(row for row, place in enumerate(index.store.places(range(len(index)))) if place.path == "said.mp4")
    for key, vector in model.embed(files / "said.mp4").vectors.items():
        np.testing.assert_allclose(index.store.vectors(key)["vector"][row], vector, atol=1e-3)


def test_only_what_changed_is_read_again(model, files, monkeypatch):
    index = Index(files, model)
    read = []
    before = build._read
    monkeypatch.setattr(build, "_read", lambda *args: read.append(args[3].path) or before(*args))
    again = Index(files, model)
    assert (again.report.new, again.report.changed, again.report.removed, read) == (0, 0, 0, [])
    (files / "silent.mp4").unlink()
    (files / "said.srt").write_text("1\n00:00:00,000 --> 00:00:02,000\na red car\n")
    write_video(files / "new.mp4")
    third = Index(files, model)
    assert (third.report.new, third.report.changed, third.report.removed, sorted(read)) == (1, 1, 1, ["new.mp4", "said.mp4"])
    assert len(third) == len(index)
    assert [found.path for found in third.search(words="red car")] == ["said.mp4"]
    assert "silent.mp4" not in {found.path for found in third.search("a man", top=99)}


def test_interrupted_anywhere_it_goes_on_to_the_same_index(model, files, monkeypatch):
    monkeypatch.setattr(build, "BATCH", 1)
    whole = content(Index(files, model, folder=files.parent / "whole", window=2.0, stride=1.0).folder)
    commit, append = Store.commit, Store.append
    for stop in range(1, 7):
        folder, calls = files.parent / f"broken{stop}", []

        def fails(method, calls=calls, stop=stop):
            def call(self, *args):
                calls.append(method)
                if len(calls) == stop:
                    if method is append:
                        method(self, *args)  # rows that no transaction names
                    raise KeyboardInterrupt
                return method(self, *args)
            return call

        monkeypatch.setattr(Store, "commit", fails(commit))
        monkeypatch.setattr(Store, "append", fails(append))
        with pytest.raises(KeyboardInterrupt):
            Index(files, model, folder=folder, window=2.0, stride=1.0)
        monkeypatch.setattr(Store, "commit", commit)
        monkeypatch.setattr(Store, "append", append)
        assert content(Index(files, model, folder=folder, window=2.0, stride=1.0).folder) == whole


def test_a_long_file_is_read_and_encoded_a_batch_at_a_time(model, files, monkeypatch):
    """An hour of video, held whole, would take gigabytes."""
    monkeypatch.setattr(build, "BATCH", 99)
    whole = Index(files, model, folder=files.parent / "whole", window=0.5, stride=0.25)
    monkeypatch.setattr(build, "BATCH", 4)
    sizes, encode = [], Loaded.encode
    monkeypatch.setattr(Loaded, "encode", lambda parts, groups, samples: sizes.append(len(samples)) or encode(parts, groups, samples))
    parts = Index(files, model, folder=files.parent / "parts", window=0.5, stride=0.25)
    assert len(parts) == len(whole) > 30
    assert max(sizes) == 4
    assert parts.store.files() == whole.store.files()
    for key in whole.store.meta.groups:
        ours, theirs = (index.store.vectors(key)["vector"].astype(np.float32) for index in (parts, whole))
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_of_a_long_file_that_breaks_off_nothing_stays(model, files, monkeypatch):
    read_moments = build.read_moments

    def breaks_off(sampling, clip, moments, modalities):
        for number, sample in enumerate(read_moments(sampling, clip, moments, modalities)):
            if number == 6:
                raise MediaError(clip.name, "cut here")
            yield sample

    monkeypatch.setattr(build, "BATCH", 4)
    monkeypatch.setattr(build, "read_moments", breaks_off)
    index = Index(files, model, window=1.0, stride=0.5)
    assert set(index.report.faults) == {"cut.mp4", "b/long.mp4"}
    assert {place.path for place in index.store.places(range(len(index)))} == {"picture.png", "said.mp4", "silent.mp4", "sound.wav"}
    assert all(len(index.store.vectors(key)["vector"]) == index.store.rows == len(index) for key in index.store.meta.groups)


def test_another_model_and_other_windows_are_refused(model, run, files, tmp_path):
    Index(files, model)
    with pytest.raises(BadIndexError, match="window: 5.0, now 4.0"):
        Index(files, model, window=4.0)
    other = shutil.copytree(run, tmp_path / "other")
    import torch
    state = torch.load(other / "ckpt" / "model_step_7.pt", weights_only=True)
    state["contra_temp"] += 1
    torch.save(state, other / "ckpt" / "model_step_7.pt")
    with pytest.raises(BadIndexError, match="was made otherwise.*\n  weights: "):
        Index(files, load(other))
    with pytest.raises(BadIndexError, match="was made otherwise"):
        Index.open(files, load(other))
    assert len(Index(files, load(other), fresh=True)) == len(Index.open(files))


def test_two_writers_are_one_too_many(model, files):
    index = Index(files, model)
    pid = os.fork()
    if not pid:  # a lock is between processes
        status = 1
        try:
            Index(files, model)
        except BadIndexError as error:
            status = 0 if "in use" in str(error) else 2
        finally:
            os._exit(status)
    with Store.write(index.folder, read_meta(index.folder)):
        pass
    os.waitpid(pid, 0)


def test_a_list_gives_the_words(model, files, tmp_path):
    listed = tmp_path / "clips.json"
    listed.write_text(json.dumps([{"video_id": "silent", "subtitle": "a talk about onions"}, {"video_id": "sound"}]))
    with pytest.raises(BadIndexError, match="name the folder of its index"):
        Index(listed, model, media=files)
    index = Index(listed, model, media=files, folder=tmp_path / "index")
    assert len(index) == 2
    assert [found.path for found in index.search(words="onions")] == ["silent.mp4"]


def test_the_background_is_what_the_model_was_trained_on_or_what_is_given(model, files, tmp_path):
    texts = json.loads((Index(files, model).folder / "background.json").read_text())
    assert sorted(texts) == sorted(model.background())
    own = Index(files, model, folder=tmp_path / "index", background=["a man", "a man", "two dogs", " "])
    assert json.loads((own.folder / "background.json").read_text()) == ["a man", "two dogs"]
    assert own.search("a red car", top=1)[0].probability is not None


def test_where_there_is_none_it_says_how_to_make_one(tmp_path):
    with pytest.raises(BadIndexError, match="make one: omnivast index"):
        Index.open(tmp_path)
    with pytest.raises(BadIndexError, match="no such folder"):
        Index.open(tmp_path / "nowhere")
