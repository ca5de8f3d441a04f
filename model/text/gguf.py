"""What a GGUF file says of itself, read in milliseconds: llama.cpp's format, of which only the head is read here."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The format's number of a type → the letter of it in struct."""
STRING, ARRAY = 8, 9


def read_head(path: Path) -> dict[str, Any]:
    """Key → number or string, of the keys in the file's head; None for lists. Raises ValueError, OSError for a file that is none."""
    with open(path, "rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version, _, keys = _numbers(file, "IQQ")
        if version not in (2, 3):
            raise ValueError(f"it is of version {version}; expected 2 or 3")
        try:
            return {_string(file): _value(file, _numbers(file, "I")[0]) for _ in range(keys)}
        except (KeyError, UnicodeDecodeError) as error:
            raise ValueError(f"its head is damaged near byte {file.tell()}") from error


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _string(file)
    if kind == ARRAY:
        inner, length = _numbers(file, "IQ")
        if inner in NUMBERS:
            file.seek(length * struct.calcsize(f"<{NUMBERS[inner]}"), 1)
        else:
            for _ in range(length):
                _value(file, inner)
        return None
    return _numbers(file, NUMBERS[kind])[0]


def _string(file: BinaryIO) -> str:
    return _bytes(file, _numbers(file, "Q")[0]).decode()


def _numbers(file: BinaryIO, kinds: str) -> tuple[Any, ...]:
    """Little-endian numbers, without padding."""
    return struct.unpack(f"<{kinds}", _bytes(file, struct.calcsize(f"<{kinds}")))


def _bytes(file: BinaryIO, length: int) -> bytes:
    found = file.read(length) if length < 1 << 30 else b""
    if len(found) < length:
        raise ValueError("it ends within its head: the file is cut short or damaged")
    return found
