"""Which model something was made by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

END = 1 << 20
"""Bytes at both ends of a large file that stand for the whole."""


def fingerprint(path: Path, patterns: Sequence[str] = ("**/*",)) -> str:
    """Of a file, or of what fits ``patterns`` in a folder: 16 hexadecimal digits of names, sizes and both ends of each file. Weights of
    gigabytes are not read whole for it; two trainings of one model differ everywhere. Raises OSError."""
    digest = hashlib.sha256()
    files = sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()}) if path.is_dir() else [path]
    for file in files:
        name, size = file.relative_to(path).as_posix() if path.is_dir() else file.name, file.stat().st_size
        digest.update(f"{name}\x1f{size}\x1f".encode())
        with open(file, "rb") as content:
            digest.update(content.read(END))
            if size > END:
                content.seek(max(END, size - END))
                digest.update(content.read())
    return digest.hexdigest()[:16]
