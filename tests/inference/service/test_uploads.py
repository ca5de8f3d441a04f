"""Bodies: bounded in size and in time, on disk and not in memory, and nothing of them stays."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from omnivast.inference.service.uploads import LONGEST_NAME, Limits, safe_name
from tests.inference.service.conftest import PATIENCE, serving, until

HEAD = b'--edge\r\nContent-Disposition: form-data; name="clip"; filename="a.mp4"\r\n\r\n'
FORM = "multipart/form-data; boundary=edge"
TAIL = b"\r\n--edge--\r\n"


def opened(one, length: int | None, body: bytes = HEAD) -> socket.socket:
    """A connection on which a form has begun."""
    host, port = one.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
    told = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    lines = [b"POST /api/caption HTTP/1.1", b"Host: localhost", b"Content-Type: " + FORM.encode(), told, b"", body]
    connection.sendall(b"\r\n".join(lines))
    return connection


def status(connection: socket.socket) -> int:
    with connection:
        return int(connection.recv(65_536)[9:12])


def is_empty(one) -> bool:
    return list(one.service.folder.iterdir()) == []


def test_a_body_that_is_too_large_is_refused_before_and_while_it_comes(make):
    with serving(make(limits=Limits(upload=100_000))) as one:
        assert status(opened(one, 10**12)) == 413
        chunks = iter([HEAD, *[bytes(10_000)] * 20, TAIL])
        told = one.client.post("/api/caption", content=chunks, headers={"content-type": FORM})
        assert told.status_code == 413 and "100,000" in told.json()["error"]
        until(lambda: is_empty(one))


def test_a_body_that_stalls_or_is_too_slow_is_given_up(make):
    with serving(make(limits=Limits(stall=0.2))) as one:
        assert status(opened(one, 10_000)) == 408
        slow = opened(one, 10**6)
        answered = threading.Event()

        def drip():
            while not answered.wait(0.05):
                try:
                    slow.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        assert int(slow.recv(65_536)[9:12]) == 408
        answered.set()
        thread.join(PATIENCE)
        slow.close()
        until(lambda: is_empty(one))


def test_many_that_are_slow_keep_nobody_else_waiting(make, library):
    """As many as are taken at once hold their places until they are given up; the others are sent away, and come again."""
    with serving(make(limits=Limits(stall=0.5, at_once=4))) as one:
        slow = [opened(one, 10**6) for _ in range(20)]
        assert one.client.post("/api/search", json={"text": "a dog"}).status_code == 200
        told = [status(connection) for connection in slow]
        assert set(told) == {408, 429} and told.count(408) >= 4
        until(lambda: one.service.forms == 0 and is_empty(one))
        content = (library / "picture.png").read_bytes()
        assert one.client.post("/api/caption", files={"clip": ("a.png", content)}).status_code == 200


def test_a_sender_that_goes_leaves_nothing(make):
    with serving(make()) as one:
        for _ in range(3):
            connection = opened(one, 10**7, HEAD + bytes(500_000))
            until(lambda: any(file.stat().st_size for file in one.service.folder.rglob("*.mp4")))
            connection.close()
            until(lambda: is_empty(one))
        until(lambda: one.service.forms == 0)


def test_only_so_many_files_at_once(make):
    with serving(make(limits=Limits(at_once=2))) as one:
        held = [opened(one, 10**6) for _ in range(2)]
        until(lambda: one.service.forms == 2)
        refused = one.client.post("/api/caption", files={"clip": ("a.mp4", b"x")})
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
        assert one.client.post("/api/search", json={"text": "a dog"}).status_code == 200
        for connection in held:
            connection.close()
        until(lambda: one.service.forms == 0)
        assert one.client.post("/api/caption", files={"clip": ("a.mp4", b"x")}).status_code == 422


def test_files_go_to_disk_as_they_come(make):
    with serving(make()) as one:
        connection = opened(one, 10**8, HEAD + bytes(3_000_000))
        until(lambda: sum(file.stat().st_size for file in one.service.folder.rglob("*.mp4")) > 2_000_000)
        connection.close()
        until(lambda: is_empty(one))


def test_many_parts_are_refused(make):
    part = b'--edge\r\nContent-Disposition: form-data; name="text"\r\n\r\n\r\n'
    with serving(make()) as one:
        told = one.client.post("/api/search", content=part * 30_000 + b"--edge--\r\n", headers={"content-type": FORM})
        assert told.status_code == 413 and told.json()["field"] == "text"


def test_the_folder_of_uploads_goes_with_the_service(make):
    service = make()
    with serving(service):
        folder = service.folder
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize(("given", "name"), [
    ("clip.mp4", "clip.mp4"), ("../../etc/passwd", "passwd"), ("C:\\films\\a.mp4", "a.mp4"),
    (".hidden.mp4", "hidden.mp4"), ("a\nb\x00.mp4", "ab.mp4"),
    ("", "clip"),
    ("..", "clip"), ("/", "clip"), ("  spaces .mp4", "spaces .mp4"), ("日本.mp4", "日本.mp4")])
def test_names_of_files_are_made_safe(given, name):
    assert safe_name(given) == name


def test_long_names_keep_their_ending():
    for letter in ("x", "日"):
        name = safe_name(letter * 5000 + ".mp4")
        assert name.endswith(".mp4") and len(name.encode()) <= LONGEST_NAME + 21
    assert Path(safe_name("a." + "b" * 300)).name


def test_a_clip_that_plays_too_long_is_refused(make, library):
    with serving(make(limits=Limits(seconds=3.0))) as one:
        for told in (one.client.post("/api/caption", json={"clip": "b/long.mp4"}),
                     one.client.post("/api/caption", files={"clip": ("l.mp4", (library / "b" / "long.mp4").read_bytes())})):
            assert told.status_code == 422 and told.json()["field"] == "clip" and "plays for" in told.json()["error"]
        assert one.client.post("/api/caption", json={"clip": "said.mp4"}).status_code == 200


def test_a_clip_that_takes_too_long_is_given_up(make, monkeypatch):
    service, stuck = make(limits=Limits(work=0.2)), threading.Event()
    with serving(service) as one:
        monkeypatch.setattr(service.library.model, "caption", lambda *_, **__: stuck.wait(100))
        told = one.client.post("/api/caption", json={"clip": "said.mp4"})
        stuck.set()
        assert told.status_code == 422 and "0.2 s" in told.json()["error"]
