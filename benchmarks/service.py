"""The service under load: ``python benchmarks/service.py CLIPS --model RUN`` starts it, asks it, and writes what it measured as JSON.

Five parts: 32 clients that search (90 %), embed texts (9 %) and caption (1 %); the same with every text embedded by itself; 512 clients,
more than are served; memory over many requests; memory while a large file is uploaded. Clients and service share the machine's cores, which
the result states. The index is enlarged to ``--moments`` by mixtures of the features that are there, so that a small folder measures a
large one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omnivast.inference.index.api import BACKGROUND, Index
from omnivast.inference.index.store import File, Place, Store
from omnivast.inference.pipeline import load
from omnivast.inference.service.app import BATCH
from omnivast.model.interface import Rows

WORDS = ["a", "the", "dog", "cat", "bird", "train", "bell", "red", "blue", "green", "small", "big", "runs", "barks", "rings",
         "passes", "says", "hello", "and", "while", "on", "in", "near", "two", "old", "new"]
MANY = 1000
"""Moments appended at once."""
LONGEST = 120.0
"""Seconds that a client waits for an answer, and anybody for the service to start."""
SERVE = """
import sys
from omnivast.inference.service.run import serve
serve(sys.argv[1], model=sys.argv[2], device="cpu", port=0, batch=int(sys.argv[3]), say=lambda text: sys.stderr.write(text + "\\n"))
"""


@dataclass
class Times:
    """Seconds of the requests that were answered with 200, and how many were with what else."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)

    def summary(self, elapsed: float) -> dict[str, Any]:
        """Rates and percentiles of each kind of request."""
        found: dict[str, Any] = {"seconds": round(elapsed, 1), "not 200": self.others}
        for kind, own in sorted(self.seconds.items()):
            p50, p99 = np.percentile(own, [50, 99]) * 1000
            found[kind] = {"a second": round(len(own) / elapsed, 1), "p50 ms": round(p50, 1), "p99 ms": round(p99, 1),
                           "max ms": round(1000 * max(own), 1)}
        return found


class Client:
    """One connection that is kept open, and as little work as can be."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def post(self, route: str, content: dict[str, Any]) -> tuple[int, bytes]:
        """(status, body)"""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self.reader is not None
        body = json.dumps(content).encode()
        self.writer.write(f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                          f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.I)
        return int(head[9:12]), await self.reader.readexactly(int(length[1]) if length else 0)

    def close(self) -> None:
        """End the connection."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def query(draw: random.Random) -> str:
    """A text that nobody has asked for before."""
    return " ".join(draw.choices(WORDS, k=draw.randrange(3, 10)))


async def traffic(port: int, clients: int, seconds: float, clip: str, requests: int | None = None) -> dict[str, Any]:
    """Clients that ask one thing after the other, for some time or until so many requests were made."""
    times, left, end = Times(), [requests or sys.maxsize], time.monotonic() + seconds

    async def ask(number: int) -> None:
        draw, client = random.Random(number), Client(port)
        while time.monotonic() < end and left[0] > 0:
            left[0] -= 1
            share = draw.random()
            kind, content = ("search", {"text": query(draw), "top": 10}) if share < 0.9 else (
                ("embed", {"text": query(draw)}) if share < 0.99 else ("caption", {"clip": clip}))
            began = time.monotonic()
            try:
                status, _ = await asyncio.wait_for(client.post(f"/api/{kind}", content), LONGEST)
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
                client.close()
                times.others[type(error).__name__] = times.others.get(type(error).__name__, 0) + 1
                continue
            if status == 200:
                times.seconds.setdefault(kind, []).append(time.monotonic() - began)
            else:
                times.others[str(status)] = times.others.get(str(status), 0) + 1
                await asyncio.sleep(0.1)
        client.close()

    began = time.monotonic()
    await asyncio.gather(*(ask(number) for number in range(clients)))
    return times.summary(time.monotonic() - began)


def memory(process: int) -> dict[str, float]:
    """MB in use now and at most, and open files."""
    text = Path(f"/proc/{process}/status").read_text()
    found = {name: int(re.search(rf"{key}:\s+(\d+)", text)[1]) / 1024 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}  # type: ignore[index]
    return {**{name: round(value, 1) for name, value in found.items()}, "files": len(os.listdir(f"/proc/{process}/fd"))}


def busy(process: int) -> float:
    """Seconds of processor time that it has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def costed(process: int, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """What the clients measured, and what share of a core the service had meanwhile."""
    before, began = busy(process), time.monotonic()
    found = await work
    used, answered = busy(process) - before, sum(own["a second"] for own in found.values() if isinstance(own, dict) and "a second" in own)
    elapsed = time.monotonic() - began
    return {**found, "cores the service had": round(used / elapsed, 2),
            "processor ms an answer": round(1000 * used / elapsed / max(answered, 1e-9), 1)}


def enlarge(folder: Path, model: str, clips: Path, moments: int) -> None:
    """An index of the clips in ``folder``, with moments added that are mixtures of two and some noise."""
    index = Index(clips, load(model, device="cpu"), folder=folder)
    draw, real = np.random.default_rng(0), index.store
    paths = sorted(real.files())
    known = {group: {name: np.asarray(x, np.float32) for name, x in real.vectors(group).items()} for group in real.meta.groups}
    whole = np.flatnonzero(real.tracks() == real.tracks().max())
    letters = next(place.tracks for place in real.places([int(whole[0])]))
    with Store.write(folder, real.meta) as store:
        for first in range(len(real), moments, MANY):
            count = min(MANY, moments - first)
            a, b, share = draw.choice(whole, count), draw.choice(whole, count), draw.random((count, 1), np.float32)
            rows = {group: Rows({name: _unit(torch.from_numpy(share * x[a] + (1 - share) * x[b] + draw.normal(0, 0.02, x[a].shape)).float())
                                 for name, x in own.items()}) for group, own in known.items()}
            store.append(rows)
            store.commit([(File(f"made/{first + n}.mp4", 1, 1), [(Place(f"made/{first + n}.mp4", 0.0, 5.0, letters), "")])
                          for n in range(count)])
    assert paths and (folder / BACKGROUND).is_file()


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-6)


async def upload(port: int, size: int) -> dict[str, Any]:
    """A body of ``size`` bytes that is no clip: taken, looked at, refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b'--edge\r\nContent-Disposition: form-data; name="clip"; filename="large.mp4"\r\n\r\n'
    tail = b"\r\n--edge--\r\n"
    writer.write(f"POST /api/caption HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
                 f"Content-Length: {len(head) + size + len(tail)}\r\n\r\n".encode() + head)
    block, began = bytes(1 << 20), time.monotonic()
    for start in range(0, size, len(block)):
        writer.write(block[: size - start])
        await writer.drain()
    writer.write(tail)
    status = (await reader.readuntil(b"\r\n"))[9:12].decode()
    writer.close()
    return {"MB": size / 1e6, "status": status, "seconds": round(time.monotonic() - began, 1)}


@contextmanager
def started(folder: Path, model: str, batch: int = BATCH) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The service, as a process of its own that ends with this context, and its port. ``batch``: texts embedded at once."""
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen([sys.executable, "-c", SERVE, str(folder), model, str(batch)], stderr=told, start_new_session=True,
                                   cwd=Path(__file__).resolve().parent.parent)
        try:
            end, found = time.monotonic() + LONGEST, None
            while found is None:
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit("the service did not start")
                time.sleep(0.1)
                found = re.search(rb"http://127\.0\.0\.1:(\d+)", os.pread(told.fileno(), 1 << 16, 0))
            yield process, int(found[1])
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(LONGEST)


async def warm(port: int, clip: str) -> None:
    """Wait until it answers, and have it do what it does only once."""
    end = time.monotonic() + LONGEST
    while (await asked(port))[0] != 200:
        if time.monotonic() > end:
            raise SystemExit("the service does not answer")
        await asyncio.sleep(0.1)
    await traffic(port, 8, 3.0, clip)


async def asked(port: int) -> tuple[int, float]:
    """Status of a search by a new client (0: none), and its seconds."""
    client, began = Client(port), time.monotonic()
    try:
        status, _ = await asyncio.wait_for(client.post("/api/search", {"text": "a dog"}), LONGEST)
    except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
        status = 0
    client.close()
    return status, time.monotonic() - began


async def recovery(port: int) -> dict[str, Any]:
    """How long after too many clients it is until a search is answered within 300 ms."""
    began = time.monotonic()
    while time.monotonic() - began < 60:
        status, seconds = await asked(port)
        if status == 200 and seconds <= 0.3:
            return {"seconds": round(time.monotonic() - began, 2), "that search, ms": round(1000 * seconds, 1)}
        await asyncio.sleep(0.05)
    return {"seconds": None}


async def measure(port: int, process: int, options: argparse.Namespace, clip: str) -> dict[str, Any]:
    """All parts but the one without batches."""
    await warm(port, clip)
    found: dict[str, Any] = {"32 clients": await costed(process, traffic(port, 32, options.seconds, clip))}
    found["memory, MB"] = {"warm": memory(process)}
    found["512 clients"] = await costed(process, traffic(port, 512, options.seconds / 2, clip))
    found["after 512 clients"] = await recovery(port)
    found["memory, MB"]["after 512 clients"] = memory(process)
    await traffic(port, 32, 3600.0, clip, options.requests // 20)
    before = memory(process)
    found[f"{options.requests} requests"] = await costed(process, traffic(port, 32, 3600.0, clip, options.requests))
    found["memory, MB"][f"before and after {options.requests} requests"] = [before, memory(process)]
    before = memory(process)
    found["upload"] = await upload(port, options.upload_mb * 1_000_000)
    found["memory, MB"]["before and after the upload"] = [before, memory(process)]
    return found


async def alone(port: int, process: int, options: argparse.Namespace, clip: str) -> dict[str, Any]:
    """32 clients of a service that embeds every text by itself."""
    await warm(port, clip)
    return await costed(process, traffic(port, 32, options.seconds, clip))


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description="Measure the service of omnivast serve.")
    parser.add_argument("clips", type=Path, help="a folder of clips")
    parser.add_argument("--model", required=True, help="the output folder of a training")
    parser.add_argument("--moments", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of 32 clients; half of it of 512")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--upload-mb", type=int, default=500)
    options = parser.parse_args()
    clip = sorted(path.relative_to(options.clips).as_posix() for path in options.clips.rglob("*.mp4"))[0]
    with tempfile.TemporaryDirectory() as name:
        enlarge(Path(name), options.model, options.clips, options.moments)
        with started(Path(name), options.model) as (process, port):
            found = asyncio.run(measure(port, process.pid, options, clip))
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            found["end"] = {"status": process.wait(20), "seconds": round(time.monotonic() - began, 1)}
        with started(Path(name), options.model, batch=1) as (process, port):
            found["32 clients, every text by itself"] = asyncio.run(alone(port, process.pid, options, clip))
    machine = {"cores": os.cpu_count(), "load": [round(value, 1) for value in os.getloadavg()],
               "threads": os.environ.get("OMP_NUM_THREADS")}
    sys.stdout.write(json.dumps({"moments": options.moments, "machine": machine, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
