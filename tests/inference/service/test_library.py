"""A folder that is served while its index is made, brought up to date, and added to."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from omnivast.inference.index.api import HIDDEN, Index
from omnivast.inference.index.store import BadIndexError
from omnivast.inference.service.run import ServeError, open_library
from omnivast.inference.service.uploads import RefusedError, Uploaded
from tests.inference.service.conftest import serving, until


def service_of(folder, model, **settings):
    from omnivast.inference.service.app import Service

    return Service(open_library(folder, model, **settings))


@pytest.fixture
def clips(media, tmp_path) -> Path:
    """A folder of two clips, without an index."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("said.mp4", "silent.mp4"):
        shutil.copy(media / name, folder)
    return folder


def test_a_new_folder_is_indexed_while_it_is_served(clips, model, monkeypatch):
    service, go = service_of(clips, model), threading.Event()
    from omnivast.inference.index import api

    update = api.update
    monkeypatch.setattr(api, "update", lambda *words: go.wait(60) and update(*words))
    service.library.update()
    with serving(service) as one:
        early = one.client.post("/api/search", json={"text": "a dog"})
        assert early.status_code == 503 and early.headers["retry-after"] and "being made" in early.json()["error"]
        assert one.client.get("/api/index").json()["state"] == "indexing"
        go.set()
        until(lambda: one.client.get("/api/index").json()["state"] == "ready")
        told = one.client.get("/api/index").json()
        assert (told["files"], told["done"], told["total"]) == (2, 2, 2)
        assert len(one.client.post("/api/search", json={"text": "a dog"}).json()["results"]) == 2


def test_a_file_that_is_added_can_be_found(clips, model, media):
    Index(clips, model)
    with serving(service_of(clips, model, uploads=True)) as one:
        for name in ("new.png", "new-1.png"):
            told = one.client.post("/api/index", files={"clip": ("../new.png", (media / "picture.png").read_bytes())})
            assert told.status_code == 200 and told.json()["added"] == [f"uploads/{name}"], told.text
        until(lambda: one.client.get("/api/index").json()["files"] == 4)
        found = one.client.post("/api/search", json={"like": "uploads/new.png", "weights": {"seen": 1}}).json()["results"]
        assert {one["path"] for one in found[:2]} == {"uploads/new.png", "uploads/new-1.png"}
        assert one.client.get("/media/uploads/new.png").content == (media / "picture.png").read_bytes()
        assert sorted(path.name for path in (clips / "uploads").iterdir()) == ["new-1.png", "new.png"]
        refused = one.client.post("/api/index", files={"clip": ("page.html", b"<script>")})
        assert refused.status_code == 422 and refused.json()["field"] == "clip"


def test_a_file_that_is_no_clip_is_not_kept(clips, model, media):
    Index(clips, model)
    with serving(service_of(clips, model, uploads=True)) as one:
        files = [("clip", ("good.png", (media / "picture.png").read_bytes())), ("clip", ("text.mp4", b"no clip\n" * 100))]
        refused = one.client.post("/api/index", files=files)
        assert refused.status_code == 422 and refused.json()["field"] == "clip" and "text.mp4" in refused.json()["error"]
        assert not (clips / "uploads").exists() and list(one.service.folder.iterdir()) == []


def test_a_file_that_goes_is_found_no_more(clips, model):
    Index(clips, model)
    with serving(service_of(clips, model)) as one:
        (clips / "silent.mp4").unlink()
        assert one.client.post("/api/index").status_code == 200
        until(lambda: one.client.get("/api/index").json()["state"] == "ready")
        assert [found["path"] for found in one.client.post("/api/search", json={"text": "a dog"}).json()["results"]] == ["said.mp4"]
        assert one.client.get("/media/silent.mp4").status_code == 404


def test_a_folder_that_cannot_be_indexed_says_why_and_serves_on(clips, model):
    Index(clips, model)
    with serving(service_of(clips, model)) as one:
        kept = [path.rename(clips.parent / path.name) for path in clips.glob("*.mp4")]
        one.client.post("/api/index")
        until(lambda: one.client.get("/api/index").json()["state"] == "failed")
        assert "holds no video" in one.client.get("/api/index").json()["error"]
        assert one.client.post("/api/search", json={"text": "a dog"}).status_code == 200
        kept[0].rename(clips / kept[0].name)
        one.client.post("/api/index")
        until(lambda: one.client.get("/api/index").json()["state"] == "ready")


def test_windows_of_an_index_stay_as_they_were_made(clips, media, model):
    shutil.copy(media / "b" / "long.mp4", clips)
    Index(clips, model, window=2.0, stride=1.0)
    library = open_library(clips, model)
    moments = library.moments
    (clips / "silent.mp4").unlink()
    library.update()
    until(lambda: library.state != "indexing")
    assert library.error == "" and library.moments == moments - 1


def test_indexing_ends_with_the_service_and_goes_on_with_the_next(clips, model):
    library = open_library(clips, model)
    library.stop()
    library.update()
    until(lambda: "indexing" not in [thread.name for thread in threading.enumerate()])
    assert library.index is None
    assert len(Index(clips, model)) == 2


def test_files_are_only_added_where_that_is_asked_for(clips, model, tmp_path):
    Index(clips, model)
    file = tmp_path / "a.mp4"
    shutil.copy(clips / "said.mp4", file)
    with pytest.raises(RefusedError, match="--uploads"):
        open_library(clips, model).add(Uploaded("a.mp4", file))
    library = open_library(clips, model, uploads=True)
    (clips / "uploads").symlink_to(tmp_path)
    with pytest.raises(RefusedError, match="leads out"):
        library.add(Uploaded("a.mp4", file))


def test_places_that_cannot_be_served(clips, model, tmp_path):
    with pytest.raises(BadIndexError, match="no such folder"):
        open_library(tmp_path / "nowhere", model)
    with pytest.raises(ServeError, match="--model"):
        open_library(clips, None)
    Index(clips, model)
    with pytest.raises(ServeError, match="is an index"):
        open_library(clips / HIDDEN, model, uploads=True)
    assert open_library(clips / HIDDEN, model).source is None
