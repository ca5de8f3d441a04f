"""Services on free ports of this machine, each in a thread of the test's process."""

from __future__ import annotations

import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from omnivast.inference.index.api import HIDDEN, Index
from omnivast.inference.pipeline import Pipeline

pytest.importorskip("fastapi", reason='fastapi is not installed: pip install "omnivast[serve]"')
pytest.importorskip("uvicorn", reason='uvicorn is not installed: pip install "omnivast[serve]"')
httpx = pytest.importorskip("httpx", reason="httpx, which asks the service, is not installed")

PATIENCE = 120.0


@dataclass
class Served:
    """A service that answers, and a client of it."""

    service: Any
    client: Any
    url: str


@contextmanager
def serving(service: Any, token: str | None = None, loopback: bool = True) -> Iterator[Served]:
    """The service behind a real server until this context ends."""
    import uvicorn

    from omnivast.inference.service.app import create_app
    from omnivast.inference.service.run import GRACE, _bound

    bound = _bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(service, token=token, loopback=loopback), log_level="error", access_log=False,
                                           timeout_graceful_shutdown=GRACE))
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started, "the server has ended before it began"
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            yield Served(service, client, url)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"the server does not end; its threads are at\n{stacks()}"


def stacks() -> str:
    """Where each thread of this process is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(f"{names.get(number, number)}\n{''.join(traceback.format_stack(frame))}"
                     for number, frame in sys._current_frames().items())


def until(true: Callable[[], Any]) -> None:
    """Wait for it; a machine that does ten other things may be slow."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="session")
def library(media, model: Pipeline, tmp_path_factory) -> Path:
    """A folder of clips with its index."""
    folder = tmp_path_factory.mktemp("library") / "clips"
    shutil.copytree(media, folder)
    Index(folder, model)
    return folder


@pytest.fixture(scope="session")
def make(library, model) -> Callable[..., Any]:
    """Services of that folder, as it is; settings as of Service."""
    from omnivast.inference.service.app import Service
    from omnivast.inference.service.library import Library

    return lambda **settings: Service(Library(model, Index.open(library, model), library / HIDDEN, None, False), **settings)


@pytest.fixture(scope="session")
def served(make) -> Iterator[Served]:
    """One that tests share who only ask."""
    with serving(make()) as one:
        yield one
