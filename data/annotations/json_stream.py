"""A JSON list or object of any length, part by part, in memory that does not grow with the file."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, BinaryIO

CHUNK = 4 * 2**20
"""Bytes read at once."""
LONGEST_ENTRY = 64 * 2**20
"""Characters of one entry above which the file is taken for broken: a string without its end would be read to the end of the file."""
_BLANK = re.compile(r"[ \t\n\r]*")
_TOKEN = 16
"""Characters of the longest token that may be cut by the end of a chunk, strings apart."""
_decoder = json.JSONDecoder()


def entries(file: BinaryIO, seen: Callable[[bytes], None] = lambda chunk: None) -> Iterator[Any]:
    """The entries of the JSON list in an open file, as ``json.loads`` gives them; ``seen`` is called with each chunk that is read.

    Raises json.JSONDecodeError with the message, line and column that ``json.loads`` of the whole gives, UnicodeDecodeError, and
    RecursionError or another ValueError for lists and numbers that Python refuses.
    """
    text = _Text(file, seen)
    if text.peek() != "[":
        raise text.error("Expecting a list", text.position)
    yield from _entries(text)
    _require_end(text)


def members(file: BinaryIO, streamed: Collection[str], seen: Callable[[bytes], None] = lambda chunk: None) -> Iterator[tuple[str, Any]]:
    """The members of the JSON object in an open file, (key, value) as they stand there. Of a list under one of the keys ``streamed`` each
    entry comes on its own, as (key, entry). A key that occurs twice comes twice.

    Raises as ``entries`` does.
    """
    text = _Text(file, seen)
    if text.peek() != "{":
        raise text.error("Expecting an object", text.position)
    for key in _keys(text):
        if key in streamed and text.peek() == "[":
            yield from ((key, entry) for entry in _entries(text))
        else:
            yield key, text.value()
    _require_end(text)


def first_sign(file: BinaryIO) -> str:
    """The first character of the text in an open file that is not blank, "" where there is none. The file is read from its start again."""
    sign = _Text(file, lambda chunk: None).peek()
    file.seek(0)
    return sign


def _entries(text: _Text) -> Iterator[Any]:
    """The entries of the list that starts at the next sign."""
    text.position += 1
    if text.peek() != "]":
        while True:
            yield text.value()
            if text.separator("]"):
                break
    text.position += 1


def _keys(text: _Text) -> Iterator[str]:
    """The keys of the object that starts at the next sign; before the next one is asked for, the value has to be read."""
    text.position += 1
    if text.peek() != "}":
        while True:
            if text.peek() != '"':
                raise text.error("Expecting property name enclosed in double quotes", text.position)
            key = text.value()
            if text.peek() != ":":
                raise text.error("Expecting ':' delimiter", text.position)
            text.position += 1
            yield key
            if text.separator("}"):
                break
    text.position += 1


def _require_end(text: _Text) -> None:
    if text.peek():
        raise text.error("Extra data", text.position)


class _Text:
    """The part of the file that is in memory, and the place reached in it."""

    def __init__(self, file: BinaryIO, seen: Callable[[bytes], None]) -> None:
        self._file, self._seen = file, seen
        first = self._bytes()
        encoding = json.detect_encoding(first)
        self._decode = codecs.getincrementaldecoder(encoding)("surrogatepass").decode
        self._buffer, self.position = self._decode(first), 0
        self._ended = not first
        self._lines = self._column = 0
        """Lines before the buffer, and characters before it in its first line."""

    def peek(self) -> str:
        """The next character that is not blank, which ``position`` then points at; "" at the end."""
        while True:
            match = _BLANK.match(self._buffer, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self._buffer) or not self._more():
                return self._buffer[self.position : self.position + 1]

    def value(self) -> Any:
        """The value that starts at the next character that is not blank."""
        self.peek()
        while True:
            try:
                value, end = _decoder.raw_decode(self._buffer, self.position)
                # A number that ends with the buffer, but for "e+" or ".", may go on in the next chunk.
                if end < len(self._buffer) - 2 or not self._more():
                    self.position = end
                    return value
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._buffer) - _TOKEN
                if not cut or len(self._buffer) - self.position > LONGEST_ENTRY or not self._more():
                    raise self.error(error.msg, error.pos) from None

    def separator(self, closing: str) -> bool:
        """Whether the next sign is ``closing``; else it must be a comma, which is passed over."""
        found = self.peek()
        if found == closing:
            return True
        if found != ",":
            raise self.error("Expecting ',' delimiter", self.position)
        self.position += 1
        return False

    def error(self, message: str, position: int) -> json.JSONDecodeError:
        """What ``json.loads`` raises for a fault at a position in the buffer."""
        error = json.JSONDecodeError(message, self._buffer, position)
        error.colno += self._column if error.lineno == 1 else 0
        error.lineno += self._lines
        return error

    def _more(self) -> bool:
        """Read the next chunk behind what is left to parse. False at the end of the file."""
        if self._ended:
            return False
        chunk = self._bytes()
        self._ended = not chunk
        last = self._buffer.rfind("\n", 0, self.position)
        self._column = self._column + self.position if last < 0 else self.position - last - 1
        self._lines += self._buffer.count("\n", 0, self.position)
        self._buffer = self._buffer[self.position :] + self._decode(chunk, final=self._ended)
        self.position = 0
        return True

    def _bytes(self) -> bytes:
        chunk = self._file.read(CHUNK)
        self._seen(chunk)
        return chunk
