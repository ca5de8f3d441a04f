"""The verb: what it refuses before a model is loaded, that it starts, and how a signal ends it."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path

import httpx
import pytest

from omnivast.inference.cli import serve
from omnivast.inference.service.run import TOKEN
from tests.inference.service.conftest import PATIENCE, until
from tests.programs import program

ADDRESS = r"http://127\.0\.0\.1:\d+"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def no_model(monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.setattr("omnivast.inference.service.run.load", lambda *_, **__: pytest.fail("a model was loaded in vain"))


@pytest.mark.parametrize(("words", "token", "told"), [
    (["--host", "0.0.0.0"], None, TOKEN), (["--host", "films.example"], None, TOKEN),
    (["--host", "0.0.0.0"], "short", "8 to 200"), (["--host", "0.0.0.0"], "has spaces in it", "8 to 200"),
    (["--host", "999.0.0.1"], "0123456789", "--port"), (["--port", "99999"], None, "--port")])
def test_what_is_refused_before_a_model_is_loaded(no_model, library, monkeypatch, caplog, words, token, told):
    if token:
        monkeypatch.setenv(TOKEN, token)
    assert serve([str(library), "--model", "nowhere", *words]) == 2
    assert told in caplog.text


def test_a_port_that_is_taken(no_model, library, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert serve([str(library), "--model", "nowhere", "--port", str(taken.getsockname()[1])]) == 2
    assert "--port" in caplog.text


def test_packages_that_are_missing_are_named(no_model, library, monkeypatch, caplog):
    monkeypatch.setattr("omnivast.config.extras.is_installed", lambda module: module != "fastapi")
    assert serve([str(library), "--model", "nowhere"]) == 2
    assert 'pip install "omnivast[serve]"' in caplog.text


@pytest.mark.e2e
def test_it_starts_answers_and_ends_by_a_signal(library, run, tmp_path):
    """While a request with a file is coming in: it may finish, and nothing of it stays."""
    environment = {name: value for name, value in os.environ.items() if name not in (TOKEN, "OMNIVAST_MODEL")}
    environment |= {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "omnivast", "serve", str(library), "--port", "0", "--device", "cpu"]
    with program(command, tmp_path, environment, ROOT) as process:
        until(lambda: process.poll() is not None or re.search(ADDRESS, _told(tmp_path)))
        assert process.poll() is None, _told(tmp_path)
        url = re.search(ADDRESS, _told(tmp_path))[0]
        until(lambda: _answers(url))
        assert httpx.post(f"{url}/api/search", json={"text": "a dog"}, timeout=PATIENCE).status_code == 200
        go, answers = threading.Event(), []

        def slowly():
            yield b'--e\r\nContent-Disposition: form-data; name="clip"; filename="a.mp4"\r\n\r\n' + bytes(300_000)
            assert go.wait(PATIENCE)
            yield b"\r\n--e--\r\n"

        asking = threading.Thread(target=lambda: answers.append(httpx.post(
            f"{url}/api/caption", content=slowly(), headers={"content-type": "multipart/form-data; boundary=e"},
            timeout=PATIENCE).status_code), daemon=True)
        asking.start()
        until(lambda: list(tmp_path.glob("omnivast_*/*/*.mp4")))
        process.send_signal(signal.SIGTERM)
        until(lambda: not _answers(url))
        go.set()
        asking.join(PATIENCE)
        assert process.wait(PATIENCE) == -signal.SIGTERM and answers == [422]
        assert not list(tmp_path.glob("omnivast_*"))


def _told(folder: Path) -> str:
    return (folder / "stderr.txt").read_text()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
