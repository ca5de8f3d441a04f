"""The routes through a real server: what the API's methods give, and every refusal names the field."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib

import pytest

from omnivast.inference.index.api import Index
from omnivast.inference.results import as_json
from tests.inference.service.conftest import PATIENCE, serving


def results(response):
    assert response.status_code == 200, response.text
    return response.json()["results"]


def refused(response, status, field):
    assert response.status_code == status, response.text
    content = response.json()
    assert set(content) == {"field", "error"} and content["field"] == field and content["error"], content
    return content["error"]


# ------------------------------------------------------------------------------------------------------------- what is found


def test_a_search_gives_what_the_index_gives(served, library, model):
    index = Index.open(library, model)
    for fields in ({"text": ["a red car"]}, {"text": ["a dog", "a street"], "without": ["an onion"], "top": 3},
                   {"text": ["a dog"], "weights": {"heard": 1.0, "seen": 0.5}}, {"words": "welcome"},
                   {"text": ["a dog"], "at_most_false": 0.2}):
        got = results(served.client.post("/api/search", json=fields))
        wanted = [as_json(one) for one in index.search(**fields)]
        assert [one["path"] for one in got] == [one["path"] for one in wanted]
        assert [one["score"] for one in got] == pytest.approx([one["score"] for one in wanted], abs=1e-5)
        assert [set(one) for one in got] == [set(one) for one in wanted]


def test_a_form_is_as_good_as_json(served, library):
    fields = {"text": ["a dog"], "top": 2, "weights": {"seen": 1.0, "heard": 0.5}, "merge": False}
    in_json = results(served.client.post("/api/search", json=fields))
    for weights in ("seen=1,heard=0.5", '{"seen": 1, "heard": 0.5}'):
        form = {"text": (None, "a dog"), "top": (None, "2"), "weights": (None, weights), "merge": (None, "false")}
        assert results(served.client.post("/api/search", files=form)) == in_json


def test_a_clip_is_found_by_itself(served, library):
    with open(library / "b" / "long.mp4", "rb") as file:
        found = results(served.client.post("/api/search", files={"like": ("mine.mp4", file)}))
    assert found[0]["path"] in ("b/long.mp4", "said.mp4", "silent.mp4") and found[0]["probability"] is None
    assert results(served.client.post("/api/search", json={"like": "said.mp4"}))[0]["path"] == "said.mp4"


def test_captions_and_answers_are_the_models(served, library, model):
    got = results(served.client.post("/api/caption", json={"clip": "said.mp4", "n": 2}))
    wanted = as_json(model.caption(library / "said.mp4", n=2))
    assert got == [{**wanted, "name": "said.mp4"}]
    questions = ["what is seen?", "what is heard?"]
    got = results(served.client.post("/api/answer", json={"clip": "said.mp4", "question": questions}))
    assert got == [{**as_json(one), "name": "said.mp4"} for one in model.answer(library / "said.mp4", questions)]


def test_an_uploaded_clip_is_called_what_its_sender_calls_it(served, library):
    content = (library / "silent.mp4").read_bytes()
    found = results(served.client.post("/api/caption", files={"clip": ("../../my holiday.mp4", content)}))
    assert found[0]["name"] == "my holiday.mp4" and "audio" in found[0]["missing"]
    assert list(served.service.folder.iterdir()) == []
    said = results(served.client.post("/api/caption", files={"clip": ("a.mp4", content), "subtitle": (None, "hello")}))
    assert "subtitle" not in said[0]["missing"]


def test_vectors_of_texts_and_clips(served, model, library):
    found = results(served.client.post("/api/embed", json={"text": ["a dog", "a red car"], "clip": "said.mp4"}))
    assert [one["name"] for one in found] == ["a dog", "a red car", "said.mp4"]
    assert found[0]["vectors"]["text"] == pytest.approx(model.embed_texts("a dog")["vector"][0].tolist(), abs=1e-5)
    assert found[2]["vectors"]["va"] == pytest.approx(model.embed(library / "said.mp4").vectors["va"].tolist(), abs=1e-5)


def test_texts_that_come_together_are_embedded_together(make):
    import asyncio

    import httpx

    async def ask(url):
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            return await asyncio.gather(*(client.post("/api/search", json={"text": f"a dog {n}"}) for n in range(24)))

    with serving(make(gather=0.5, batch=24)) as one:
        assert {answer.status_code for answer in asyncio.run(ask(one.url))} == {200}
        assert one.service.searches.texts == 24 and one.service.searches.batches <= 12


def test_what_is_indexed_and_that_it_lives(served):
    told = served.client.get("/api/index").json()
    assert told["state"] == "ready" and told["files"] == 5 and told["moments"] == 5 and told["verbs"] == ["search", "caption", "answer"]
    assert list(told["faults"]) == ["cut.mp4"] and told["faults"]["cut.mp4"].startswith("cut.mp4: ") and not told["uploads"]
    assert served.client.get("/api/health").json()["status"] == "ok"


def test_metrics_count(served):
    served.client.post("/api/search", json={"text": "a dog"})
    served.client.get("/nowhere/at/all")
    lines = served.client.get("/api/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert int(values['omnivast_requests_total{route="/api/search",status="200"}']) > 0
    inside = '{route="/api/search"'
    assert values[f'omnivast_request_seconds_bucket{inside},le="+Inf"}}'] == values[f"omnivast_request_seconds_count{inside}}}"]
    assert float(values["omnivast_index_files"]) == 5 and not any("nowhere" in line for line in lines)


def test_openapi_names_every_field(served):
    told = served.client.get("/api/openapi.json").json()
    assert {"/api/search", "/api/caption", "/api/answer", "/api/embed", "/api/index", "/media/{path}"} <= set(told["paths"])
    body = told["paths"]["/api/search"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    fields = set(body["application/json"]["schema"]["properties"])
    assert fields == {"text", "like", "without", "words", "top", "weights", "at_most_false", "merge"}
    assert served.client.get("/docs").status_code == 404  # that page would fetch scripts from a foreign host


# ------------------------------------------------------------------------------------------------------------- media


def test_media_whole_and_in_ranges(served, library):
    content = (library / "said.mp4").read_bytes()
    whole = served.client.get("/media/said.mp4")
    assert whole.content == content and whole.headers["content-type"] == "video/mp4" and whole.headers["accept-ranges"] == "bytes"
    part = served.client.get("/media/said.mp4", headers={"range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == content[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    assert served.client.get("/media/said.mp4", headers={"range": "bytes=-10"}).content == content[-10:]
    assert served.client.get("/media/said.mp4", headers={"range": f"bytes={len(content)}-"}).status_code == 416
    assert served.client.head("/media/b/long.mp4").status_code == 200


@pytest.mark.parametrize("path", ["../said.mp4", "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "/etc/passwd", "notes.txt", "cut.mp4",
                                  "said.srt", ".omnivast/meta.json", "said.mp4%00.png", "b", "", "http:%2f%2flocalhost%2fsaid.mp4",
                                  "%ff%fe"])
def test_only_clips_of_the_index_are_given_away(served, path):
    response = served.client.get(f"/media/{path}")
    assert response.status_code == 404 and set(response.json()) == {"field", "error"}


def test_links_that_lead_out_of_the_folder_are_not_followed(make, library, tmp_path):
    service, inside = make(), library / "silent.mp4"
    (tmp_path / "secret.mp4").write_bytes(inside.read_bytes())
    kept = inside.rename(tmp_path / "kept.mp4")
    try:
        inside.symlink_to(tmp_path / "secret.mp4")
        with serving(service) as one:
            refused(one.client.get("/media/silent.mp4"), 403, "path")
            refused(one.client.post("/api/caption", json={"clip": "silent.mp4"}), 403, "clip")
            inside.unlink()
            assert "gone" in refused(one.client.get("/media/silent.mp4"), 404, "path")
    finally:
        inside.unlink(missing_ok=True)
        kept.rename(inside)


# ---------------------------------------------------------------------------------------------------------- what is refused

SEARCHES = {
    "text": [{"text": "x" * 1_000_000}, {"text": ["a"] * 17}, {"text": 5}, {}, {"text": " "}, {"text": "a\x00b"}],
    "top": [{"text": "a", "top": 0}, {"text": "a", "top": 10**9}, {"text": "a", "top": "many"}],
    "weights": [{"text": "a", "weights": {"sene": 1}}, {"text": "a", "weights": {"seen": 0}}, {"text": "a", "weights": {"seen": -1}},
                {"text": "a", "weights": [1]}, {"text": "a", "weights": "seen"}],
    "at_most_false": [{"text": "a", "at_most_false": 2}, {"text": "a", "at_most_false": 1e-9}],
    "words": [{"words": "x" * 3000}],
    "like": [{"like": "/etc/passwd"}, {"like": "../said.mp4"}, {"like": "file:///etc/passwd"}, {"like": "http://localhost/said.mp4"},
             {"like": "said.mp4\n"}, {"like": ""}],
    "colour": [{"text": "a", "colour": "red"}],
    "files": [{"text": "a", "files": [{"name": "a", "path": "/etc/passwd"}]}],
}


@pytest.mark.parametrize(("field", "fields"), [(field, fields) for field, own in SEARCHES.items() for fields in own],
                         ids=lambda value: str(value)[:40])
def test_searches_that_are_refused(served, field, fields):
    response = served.client.post("/api/search", json=fields)
    assert 400 <= response.status_code < 500, response.text
    told = response.json()
    assert told["field"].split(".")[0] == field and len(response.content) < 2000


@pytest.mark.parametrize(("status", "field", "fields"), [
    (422, "clip", {}), (404, "clip", {"clip": "id\nwith\nlines"}), (404, "clip", {"clip": "/etc/passwd"}),
    (404, "clip", {"clip": "https://example.org/a.mp4"}),
    (422, "clip", {"clip": ["said.mp4"]}), (422, "n", {"clip": "said.mp4", "n": 1000}),
    (422, "beams", {"clip": "said.mp4", "beams": 0}),
    (422, "group", {"clip": "said.mp4", "group": "xyz"}), (422, "group", {"clip": "said.mp4", "group": "vas"}),
    (422, "clip", {"clip": "silent.mp4", "group": "va"}), (422, "subtitle", {"clip": "said.mp4", "subtitle": "x" * 1_000_000}),
    (422, "question", {"clip": "said.mp4", "question": "?"})], ids=lambda value: str(value)[:40])
def test_captions_that_are_refused(served, status, field, fields):
    refused(served.client.post("/api/caption", json=fields), status, field)


@pytest.mark.parametrize("question", ["", " ", [], ["a"] * 17, "x" * 3000, None, [[]]], ids=lambda value: str(value)[:20])
def test_questions_that_are_none(served, question):
    error = served.client.post("/api/answer", json={"clip": "said.mp4", "question": question})
    assert error.status_code == 422 and error.json()["field"].startswith("question")


@pytest.mark.parametrize(("status", "kind", "body"), [
    (400, "application/json", b"{"), (400, "application/json", b"[1]"), (400, "application/json", b"[" * 100_000),
    (400, "application/json", b"\xff\xfe"),
    (415, "text/plain", b"a dog"), (413, "application/json", b" " * 3_000_000), (400, "multipart/form-data", b"x"),
    (400, "multipart/form-data; boundary=edge", b"no edge at all"),
    (400, "multipart/form-data; boundary=edge", b"--edge\r\n\r\nx\r\n--edge--\r\n"),
    (400, "multipart/form-data; boundary=edge", b'--edge\r\nContent-Disposition: form-data; name="text"\r\n\r\nhalf')],
    ids=lambda value: str(value)[:30])
def test_bodies_that_are_none(served, status, kind, body):
    refused_with = served.client.post("/api/search", content=body, headers={"content-type": kind})
    assert refused_with.status_code == status and "error" in refused_with.json()


def test_names_that_no_utf8_holds(served):
    for body in (b'{"text": "\\ud800"}', b'{"\\ud800": 1}', b'{"clip": "\\udfff"}'):
        for route in ("search", "caption"):
            assert 400 <= served.client.post(f"/api/{route}", content=body, headers={"content-type": "application/json"}).status_code < 500


def huge_png(width: int, height: int) -> bytes:
    """The head of a picture of this size, and hardly any pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """Name → bytes that are no clip."""
    folder = tmp_path_factory.mktemp("hostile")
    with zipfile.ZipFile(folder / "zip.mp4", "w") as archive:
        archive.writestr("a.txt", "text" * 1000)
    (folder / "text.mp4").write_text("no clip\n" * 100)
    (folder / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    (folder / "concat.mkv").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    (folder / "huge.png").write_bytes(huge_png(100_000, 100_000))
    (folder / "large.png").write_bytes(huge_png(13_000, 13_000))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "picture.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>')
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["zip.mp4", "text.mp4", "list.mp4", "concat.mkv", "huge.png", "large.png", "empty.mp4", "picture.svg"])
def test_files_that_are_no_clip_are_named(served, hostile, name):
    for route, field in (("caption", "clip"), ("search", "like")):
        error = refused(served.client.post(f"/api/{route}", files={field: (name, hostile[name])}), 422, field)
        assert name in error and str(served.service.folder) not in error
    assert list(served.service.folder.iterdir()) == []


def test_a_clip_cut_off_is_refused(served, library):
    refused(served.client.post("/api/caption", files={"clip": ("cut.mp4", (library / "cut.mp4").read_bytes())}), 422, "clip")


def test_files_in_the_wrong_field_or_too_many(served, library):
    content = (library / "picture.png").read_bytes()
    refused(served.client.post("/api/caption", files={"like": ("a.png", content)}), 422, "like")
    refused(served.client.post("/api/caption", files=[("clip", ("a.png", content))] * 2), 422, "clip")
    refused(served.client.post("/api/search", files=[("like", ("a.png", content))] * 9), 413, "like")


def test_no_routes_but_these(served):
    assert served.client.get("/api/nothing").json() == {"field": None, "error": "Not Found"}
    assert served.client.get("/api/search").status_code == 405
    assert json.loads(served.client.post("/api/index").content)["error"].startswith("this index is served as it is")
