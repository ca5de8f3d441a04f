"""Who works on which shard: a file per shard, moved from folder to folder. A rename happens once, whoever tries, on one machine or many.

    todo/00007                  nobody works on it
    taken/00007@host@4711       that process does, and touches the file every few seconds
    done/00007                  finished

A worker that is killed leaves its file in ``taken``. It is put back when its process is seen to be gone, on the same machine at once, on
others when the file has not been touched for ``STALE`` seconds. Should a worker that was thought dead go on, both write the same results,
since stages are pure functions, each to a file of its own.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

STALE = 120.0
"""Seconds without a sign of life after which another machine's lease is taken away."""
BEAT = 10.0
"""Seconds between two signs of life."""


HOST = "OMNIVAST_HOST"
"""Variable of the environment with the name of this machine, where containers on several have one name in common."""


def this_host() -> str:
    return (os.environ.get(HOST) or socket.gethostname()).replace("@", "_").replace("/", "_")


class Leases:
    """The shards of one stage, in a folder."""

    def __init__(self, folder: Path, host: str | None = None) -> None:
        self.folder, self.host = folder, host or this_host()
        self.todo, self.taken, self.done = (folder / name for name in ("todo", "taken", "done"))

    def open(self, shards: Sequence[str]) -> None:
        """Make files for shards that have none yet. May be called by many at once, and again."""
        for place in (self.todo, self.taken, self.done):
            place.mkdir(parents=True, exist_ok=True)
        known = self._names(self.todo) | self._names(self.done) | {name.split("@")[0] for name in self._names(self.taken)}
        for shard in shards:
            # Moved between the two listings, a shard would come to life again: harmless, its results are there and it ends at once.
            if shard not in known:
                with suppress(FileExistsError), open(self.todo / shard, "x"):
                    pass

    def claim(self, only: str | None = None) -> Lease | None:
        """The first shard that nobody works on, or this one alone; None where there is none."""
        for shard in self.waiting() if only is None else [only]:
            mine = self.taken / f"{shard}@{self.host}@{os.getpid()}"
            try:
                os.rename(self.todo / shard, mine)
            except FileNotFoundError:  # another was faster
                continue
            with suppress(FileNotFoundError):  # taken away within this moment
                os.utime(mine)
                return Lease(self, shard, mine)
        return None

    def put_back_the_dead(self) -> list[str]:
        """Shards whose worker is gone are free again; their names."""
        found = []
        for name in self._names(self.taken):
            shard, host, process = name.split("@")
            if (host == self.host and not _alive(int(process))) or self._age(self.taken / name) > STALE:
                with suppress(FileNotFoundError):
                    os.rename(self.taken / name, self.todo / shard)
                    found.append(shard)
        return found

    def waiting(self) -> list[str]:
        """Shards that nobody works on."""
        return sorted(self._names(self.todo))

    def counts(self) -> tuple[int, int, int]:
        """(todo, taken, done)."""
        todo, taken, done = (len(self._names(place)) for place in (self.todo, self.taken, self.done))
        return todo, taken, done

    def _age(self, path: Path) -> float:
        """Seconds since the last sign of life, by the clock of the file system, which all machines share."""
        now = self.folder / f".now@{self.host}@{os.getpid()}"
        now.touch()
        os.utime(now)
        try:
            return now.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            now.unlink(missing_ok=True)

    @staticmethod
    def _names(place: Path) -> set[str]:
        return {name for name in os.listdir(place) if not name.startswith(".")} if place.is_dir() else set()


class Lease:
    """A shard that this process works on. As a context it gives signs of life from a thread, so that one long source is no silence."""

    def __init__(self, leases: Leases, shard: str, path: Path) -> None:
        self.leases, self.shard, self.path = leases, shard, path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @property
    def owner(self) -> str:
        return self.path.name

    @property
    def lost(self) -> bool:
        """Another took it, thinking this process dead."""
        return not self.path.exists()

    def finish(self) -> None:
        """All results of the shard are there."""
        with suppress(FileNotFoundError):
            os.rename(self.path, self.leases.done / self.shard)

    def give_back(self) -> None:
        with suppress(FileNotFoundError):
            os.rename(self.path, self.leases.todo / self.shard)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a zombie answers to signals, and works no more
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
