"""The thread before the model: texts together, a queue that is bounded, and errors that reach whoever waits."""

from __future__ import annotations

import asyncio
import threading

import pytest

from omnivast.inference.service.worker import BusyError, Worker
from tests.inference.service.conftest import PATIENCE, serving, until


@pytest.fixture
def held():
    """A worker whose thread waits for ``go``; what it embedded is in ``seen``."""
    go, seen = threading.Event(), []

    def embed(texts):
        seen.append(list(texts))
        return [text.upper() for text in texts]

    worker = Worker("held", room=4, embed=embed, gather=0.0, batch=3)
    yield worker, go, seen
    go.set()
    worker.stop()


def finished(work):
    """Its result, in bounded time: a thread that has died would let everybody wait for ever."""
    return asyncio.run(asyncio.wait_for(work, PATIENCE))


async def begin(worker, go):
    """Give the thread something to wait at."""
    first = asyncio.ensure_future(worker.run(lambda: go.wait(60)))
    await asyncio.sleep(0)
    while worker.waiting:
        await asyncio.sleep(0.001)
    return first


def test_texts_that_wait_are_embedded_together(held):
    worker, go, seen = held

    async def ask():
        first = await begin(worker, go)
        others = [asyncio.ensure_future(worker.with_texts([f"a{n}", f"b{n}"], list)) for n in range(4)]
        await asyncio.sleep(0)
        go.set()
        return await first, await asyncio.gather(*others)

    _, found = finished(ask())
    assert found == [[f"A{n}", f"B{n}"] for n in range(4)] and [len(texts) for texts in seen] == [4, 4]
    assert (worker.batches, worker.texts) == (2, 8)


def test_more_than_the_queue_holds_is_refused_at_once(held):
    worker, go, _ = held

    async def ask():
        first = await begin(worker, go)
        waiting = [asyncio.ensure_future(worker.run(lambda: 1)) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await worker.run(lambda: 1)
        go.set()
        return await asyncio.gather(first, *waiting)

    assert finished(ask())[1:] == [1, 1, 1, 1]


def test_an_error_is_told_and_the_thread_goes_on(held):
    worker, go, _ = held
    go.set()

    async def ask():
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 / 0)
        worker._embed = lambda texts: 1 / 0
        with pytest.raises(ZeroDivisionError):
            await worker.with_texts(["a"], list)
        return await worker.run(lambda: "on")

    assert finished(ask()) == "on"


def test_what_nobody_waits_for_is_not_done(held):
    worker, go, _ = held
    done = []

    async def ask():
        first = await begin(worker, go)
        left = asyncio.ensure_future(worker.run(lambda: done.append("left")))
        await asyncio.sleep(0)
        left.cancel()
        kept = asyncio.ensure_future(worker.run(lambda: done.append("kept")))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(first, kept)

    finished(ask())
    assert done == ["kept"]


def test_a_service_that_is_too_busy_says_when_to_come_back(make, monkeypatch):
    from omnivast.inference.service import app

    monkeypatch.setattr(app, "LOOKS", 1)
    service, go = make(), threading.Event()
    with serving(service) as one:
        monkeypatch.setattr(service.library.model, "caption", lambda *_, **__: [] if go.wait(60) else [])
        answers: list[int] = []

        def ask():
            import httpx

            answers.append(httpx.post(f"{one.url}/api/caption", json={"clip": "said.mp4"}, timeout=PATIENCE).status_code)

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: len(answers) == 4)  # one is worked on, one waits
        assert answers == [503] * 4
        refused = one.client.post("/api/caption", json={"clip": "said.mp4"})
        assert refused.headers["retry-after"] == "1" and refused.json()["error"]
        assert one.client.post("/api/search", json={"text": "a dog"}).status_code == 200  # searches do not wait for captions
        go.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(answers) == [200, 200, 503, 503, 503, 503]
