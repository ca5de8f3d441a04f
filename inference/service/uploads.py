"""The body of a request: fields, and files that go to disk as they arrive. Bounded in size and in time, and gone with the request."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from omnivast.data.media.containers import IMAGE_EXTENSIONS, SOUND_EXTENSIONS, VIDEO_EXTENSIONS

MEDIA = (*IMAGE_EXTENSIONS, *SOUND_EXTENSIONS, *VIDEO_EXTENSIONS)
WRITTEN = 1 << 18
"""Bytes of a body that are handed to the disk at once."""
LONGEST_NAME = 200
"""Bytes of the name of a file before its ending."""
PART = 100
"""Bytes that a part counts for at least."""


class RefusedError(Exception):
    """A request that is not served: the status, the field that is wrong (None: none of them), and what was expected."""

    def __init__(self, status: int, field: str | None, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.field, self.message, self.retry_after = status, field, message, retry_after


@dataclass(frozen=True)
class Limits:
    """What a request may cost."""

    upload: int = 2 << 30
    """Bytes of the body of a request with files."""
    fields: int = 2 << 20
    """Bytes of a body without files, and of all fields beside files."""
    files: int = 8
    """Files of a request."""
    at_once: int = 8
    """Requests with files at the same time."""
    stall: float = 10.0
    """Seconds in which nothing arrives."""
    slowest: float = 16_384
    """Bytes a second, on average once ``stall`` seconds have passed."""
    seconds: float = 3600.0
    """How long a clip may play that is looked at in a request."""
    work: float = 120.0
    """Seconds that looking at a clip may take."""


@dataclass(frozen=True)
class Uploaded:
    """A file of a request: what its sender calls it, and where it is."""

    name: str
    path: Path


@dataclass
class Received:
    """The fields of a body, and its files by field. Those of a form are lists of texts."""

    form: bool = False
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[Uploaded]] = field(default_factory=dict)


@asynccontextmanager
async def received(request: Request, limits: Limits, folder: Path) -> AsyncIterator[Received]:
    """The body of a request, JSON or ``multipart/form-data``. Its files are in ``folder`` while this context is open. Raises
    RefusedError."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"multipart/form-data":
        if not options.get(b"boundary"):
            raise RefusedError(400, None, "multipart/form-data without a boundary")
        own = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=folder))
        try:
            form = _Form(options[b"boundary"], own, limits)
            try:
                await _fill(form, request, limits)
            finally:
                form.close()
            yield form.received
        finally:
            await asyncio.to_thread(shutil.rmtree, own, ignore_errors=True)
    else:
        body = b"".join([chunk async for chunk in _chunks(request, limits, limits.fields)])
        if body and kind != b"application/json":
            raise RefusedError(415, None, "expected application/json or multipart/form-data as the content type of the body")
        yield Received(fields=_json(body))


def _json(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body) if body else {}
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, None, f"the body is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise RefusedError(400, None, "the body is no JSON object")
    return content


async def _fill(form: _Form, request: Request, limits: Limits) -> None:
    waiting = bytearray()
    try:
        async for chunk in _chunks(request, limits, limits.upload):
            waiting += chunk
            if len(waiting) >= WRITTEN:
                await asyncio.to_thread(form.write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(form.write, bytes(waiting))
        form.end()
    except MultipartParseError as error:
        raise RefusedError(400, form.field, f"the body is no multipart/form-data: {error}") from None


async def _chunks(request: Request, limits: Limits, most: int) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises RefusedError when it is too large, stalls or is too slow, or when its sender is gone."""
    told = request.headers.get("content-length", "0")
    if told.isdigit() and int(told) > most:
        raise RefusedError(413, None, f"the body has {int(told):,} bytes; at most {most:,} are taken")
    stream, began, size = request.stream().__aiter__(), time.monotonic(), 0
    while True:
        try:
            chunk = await asyncio.wait_for(stream.__anext__(), limits.stall)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise RefusedError(408, None, f"nothing of the body arrived for {limits.stall:g} s") from None
        except asyncio.TimeoutError:  # another class before Python 3.11
            raise RefusedError(408, None, f"nothing of the body arrived for {limits.stall:g} s") from None
        except ClientDisconnect:
            raise RefusedError(400, None, "the body was cut off") from None
        size += len(chunk)
        if size > most:
            raise RefusedError(413, None, f"the body is larger than the {most:,} bytes that are taken")
        seconds = time.monotonic() - began
        if seconds > limits.stall and size < seconds * limits.slowest:
            raise RefusedError(408, None, f"the body arrives at {size / seconds:,.0f} bytes a second; at least {limits.slowest:,.0f}")
        yield chunk


class _Form:
    """The parts of a multipart body, written down as they come."""

    def __init__(self, boundary: bytes, folder: Path, limits: Limits) -> None:
        self.received = Received(form=True)
        self.field: str | None = None
        """Of the part that is being read."""
        self._folder, self._limits = folder, limits
        self._file: BinaryIO | None = None
        self._value = bytearray()
        self._fields = self._files = 0
        self._header, self._content, self._disposition = b"", b"", b""
        self._ended = False
        self._parser = MultipartParser(boundary, {
            "on_part_begin": self._begin, "on_header_field": self._header_field, "on_header_value": self._header_value,
            "on_header_end": self._header_end, "on_headers_finished": self._headers, "on_part_data": self._data,
            "on_part_end": self._part_end, "on_end": self._end}, max_size=limits.upload)
        self.write = self._parser.write

    def end(self) -> None:
        """All has been written."""
        self._parser.finalize()
        if not self._ended:
            raise RefusedError(400, self.field, "the body ends within a part")

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self._disposition, self._header, self._content = b"", b"", b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._content
        self._header, self._content = b"", b""

    def _headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise RefusedError(400, None, "a part of the body has no name")
        self.field = options[b"name"].decode("utf-8", "replace")
        if b"filename" not in options:
            self._value = bytearray()
            self._count(PART)
            return
        self._files += 1
        if self._files > self._limits.files:
            raise RefusedError(413, self.field, f"more than {self._limits.files} files")
        name = safe_name(options[b"filename"].decode("utf-8", "replace"))
        ending = Path(name).suffix.lower()
        path = self._folder / f"{self._files}{ending if ending in MEDIA else ''}"
        self._file = open(path, "wb")  # noqa: SIM115 (closed by close)
        self.received.files.setdefault(self.field, []).append(Uploaded(name, path))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, size: int) -> None:
        self._fields += size
        if self._fields > self._limits.fields:
            raise RefusedError(413, self.field, f"fields of more than {self._limits.fields:,} bytes")

    def _part_end(self) -> None:
        if self._file is not None:
            self.close()
        elif self.field is not None:
            try:
                text = self._value.decode("utf-8")
            except UnicodeDecodeError:
                raise RefusedError(400, self.field, "is no UTF-8") from None
            self.received.fields.setdefault(self.field, []).append(text)

    def _end(self) -> None:
        self._ended = True


def safe_name(given: str) -> str:
    """What a sender calls a file, as the name of a file in one folder: no folders, no control characters, not hidden, not too long."""
    name = re.sub(r"[\x00-\x1f\x7f]", "", given.replace("\\", "/").rpartition("/")[2]).strip().lstrip(".")
    stem, dot, ending = name.rpartition(".")
    stem, ending = (_cut(stem, LONGEST_NAME), dot + _cut(ending, 20)) if stem else (_cut(name, LONGEST_NAME), "")
    return stem + ending or "clip"


def _cut(text: str, most: int) -> str:
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
