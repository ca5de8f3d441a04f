"""Messages to the console and to a file, progress with rate and time left, and JSON Lines files."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from omnivast.utils import distributed
from omnivast.utils.files import write_atomically
from omnivast.utils.watchdog import going_on

LOGGER_NAME = "omnivast"
FIRST_INTERVAL = 15.0
"""Seconds between progress lines where there is no terminal; later ones are a twentieth of the time so far apart."""

logger = logging.getLogger(LOGGER_NAME)
T = TypeVar("T")


class _Console(logging.Handler):
    """Writes above a progress bar, not into it; looks stderr up at each line, since tests and notebooks replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


class _ConsoleFormat(logging.Formatter):
    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        text = f"{self.prefix}{level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def setup_logging(folder: str | Path | None, rank: int | None = None) -> logging.Logger:
    """Send the logger "omnivast" to the console (concise) and, with times, to ``<folder>/log/log.txt``.

    ``rank``: None takes this process's. Only rank 0 writes the file and speaks below warnings. May be called again: the last call counts.
    """
    rank = distributed.rank() if rank is None else rank
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO)
    console = _Console(logging.INFO if rank == 0 else logging.WARNING)
    console.setFormatter(_ConsoleFormat("" if rank == 0 else f"[rank {rank}] "))
    logger.addHandler(console)
    if folder is not None and rank == 0:
        path = Path(folder) / "log" / "log.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(file)
    return logger


def duration(seconds: float) -> str:
    """``75`` → ``1:15``, ``3700`` → ``1:01:40``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress(Generic[T]):
    """Progress of something of known or unknown length: a bar on a terminal, sparse lines through the logger elsewhere."""

    def __init__(self, work: Iterable[T] | int | None, description: str, *, initial: int = 0, unit: str = "it",
                 shown: bool = True, terminal: bool | None = None) -> None:
        self.work = work if isinstance(work, Iterable) else None
        self.total = len(work) if isinstance(work, Sized) else work if isinstance(work, int) else None
        self.description, self.unit, self.shown = description, unit, shown
        self.count = self.initial = initial
        self.postfix = self.left = ""
        terminal = sys.stderr.isatty() if terminal is None else terminal
        self.bar = tqdm(total=self.total, desc=description, initial=initial, unit=unit, dynamic_ncols=True,
                        smoothing=0.1) if shown and terminal else None
        self.start = self.last_time = time.monotonic()
        self.last_count = initial

    def __iter__(self) -> Iterator[T]:
        if self.work is None:
            raise TypeError("only progress over an iterable can be iterated; over a total, call update()")
        with self:
            for item in self.work:
                yield item
                self.update()

    def update(self, steps: int = 1) -> None:
        """Count ``steps`` more; to a watchdog, a sign of life."""
        self.count += steps
        going_on()
        if self.bar is not None:
            self.bar.update(steps)
        elif self.shown and self._due():
            self._line()

    def set_left(self, words: str) -> None:
        """Time left as the caller knows it, such as ``1:15 left``, in place of the one that the mean rate so far would give."""
        self.left = words
        if self.bar is not None:
            self.bar.bar_format = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, " + words + ", {rate_fmt}{postfix}]"

    def set_postfix(self, **values: object) -> None:
        """Values shown behind the bar, formatted as given."""
        self.postfix = ", ".join(f"{name} {value}" for name, value in values.items())
        if self.bar is not None:
            self.bar.set_postfix_str(self.postfix, refresh=False)

    def close(self) -> None:
        """Finish the bar; where there is none, a last line if the latest count was not told yet."""
        if self.bar is not None:
            self.bar.close()
        elif self.shown and self.count > self.last_count:
            self._line()
        self.shown = False

    def __enter__(self) -> Progress[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _due(self) -> bool:
        now = time.monotonic()
        if self.total and self.count >= self.total:
            return True
        if self.total and (self.count - self.last_count) * 10 >= self.total and now - self.last_time >= 1.0:
            return True
        return now - self.last_time >= max(FIRST_INTERVAL, (now - self.start) / 20)

    def _line(self) -> None:
        elapsed = time.monotonic() - self.start
        rate = (self.count - self.initial) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.description}: {self.count}" + (f"/{self.total} ({100 * self.count // self.total} %)" if self.total else "")]
        parts.append(f"{rate:.3g} {self.unit}/s" if rate >= 0.1 or rate == 0 else f"{1 / rate:.3g} s/{self.unit}")
        if self.left:
            parts.append(self.left)
        elif self.total and rate > 0:
            parts.append(f"{duration((self.total - self.count) / rate)} left")
        logger.info(", ".join([*parts, self.postfix] if self.postfix else parts))
        self.last_time, self.last_count = time.monotonic(), self.count


def progress(work: Iterable[T] | int | None, description: str, *, initial: int = 0, unit: str = "it") -> Progress[T]:
    """Progress over an iterable (iterate the result) or a total (call ``update``), shown on rank 0 with rate and time left."""
    return Progress(work, description, initial=initial, unit=unit, shown=distributed.is_main())


class JsonlWriter:
    """Appends one JSON object per line and flushes each, so that a kill loses at most the line being written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if _cut_off(self.path):
            truncate_jsonl(self.path, lambda row: True)
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def append(self, row: dict[str, Any]) -> None:
        """Write one line; numbers that JSON cannot hold (NaN, infinity) become null."""
        self.file.write(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n")
        self.file.flush()

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; a last line cut off by a kill is left out. Absent file: none."""
    return list(iterate_jsonl(path))


def iterate_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The same objects one by one, for large files."""
    path = Path(path)
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def truncate_jsonl(path: str | Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a JSON Lines file with the lines that parse and that ``keep`` wants; atomic. Nothing happens when it is absent."""
    if not Path(path).exists():
        return
    rows = [row for row in read_jsonl(path) if keep(row)]
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _cut_off(path: Path) -> bool:
    """Whether the last line has no end: the writer was killed within it."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value
