"""Paths as people write them: ``~`` and ``$VARIABLES`` expanded in one place, and relative ones told with what they are relative to."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


class PathError(ValueError, argparse.ArgumentTypeError):
    """A path with a variable or a user that does not exist here; the message names it. As an ArgumentTypeError argparse shows it."""


def expanded(path: str) -> str:
    """The path with ``~``, ``~user``, ``$NAME`` and ``${NAME}`` replaced, as a shell would; ``hf:~/x`` too.

    A shell leaves them alone inside quotes, behind ``=``, and in files. Raises PathError for an unknown user, an undefined variable,
    and what names no file: an address (``s3://…``).
    """
    if re.match(r"[A-Za-z][\w+.-]*://", path):
        raise PathError(f"'{path}' is an address; files are read from disks alone: fetch it, or mount what holds it")
    if "\0" in path:
        raise PathError(f"{path!r} holds a zero byte, which no path has")
    missing = next((name for found in _VARIABLE.finditer(path) if (name := found[1] or found[2]) not in os.environ), None)
    if missing is not None:
        raise PathError(f"'{path}': the environment variable {missing} is not set")
    path = _VARIABLE.sub(lambda found: os.environ[found[1] or found[2]], path)
    start = "hf:" if path.startswith("hf:~") else ""
    rest = path.removeprefix(start)
    if not rest.startswith("~"):
        return path
    home = os.path.expanduser(rest)
    if home.startswith("~"):
        user = rest.split("/", 1)[0]
        raise PathError(f"'{path}': there is no user '{user[1:]}' here; a file whose name begins with ~ is written ./{user}")
    return start + home


def as_path(text: str) -> Path:
    """The ``type`` of command line arguments that are paths."""
    return Path(expanded(text))


def looked_up(path: str | Path) -> str:
    """The end of a message about what is not there: `` (looked up from /folder)`` where the path is relative, else nothing."""
    return "" if os.path.isabs(path) else f" (looked up from {os.getcwd()})"
