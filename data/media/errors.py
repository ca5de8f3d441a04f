"""The one error of a media file that cannot be read, in the user's words whatever went wrong inside a library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omnivast.data.media.parts import CutError, Part, Source


class MediaError(ValueError):
    """A media file that cannot be read: ``path`` and ``reason``."""

    def __init__(self, path: str | Path | Part, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@contextmanager
def named(path: Source) -> Iterator[None]:
    """Whatever a decoder raises on a file, and they raise almost anything, becomes a MediaError that names the file."""
    try:
        yield
    except MediaError:
        raise
    except FileNotFoundError:
        raise MediaError(path, "no such file") from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise MediaError(path, f"cannot be opened: {error.strerror}") from None
    except CutError as error:
        raise MediaError(path, f"truncated: {error}") from None
    except Exception as error:
        if (said := _said_by_ffmpeg(error)) is not None:
            raise MediaError(path, said) from None
        raise MediaError(path, f"cannot be read ({type(error).__name__}: {error})") from error


def _said_by_ffmpeg(error: Exception) -> str | None:
    """The reason where it is FFmpeg's error. PyAV is looked for only where something has loaded it: a training without media to decode
    does without."""
    av = sys.modules.get("av")
    if av is None or not isinstance(error, av.FFmpegError):
        return None
    if isinstance(error, av.InvalidDataError):
        return "truncated or damaged: a part of it cannot be decoded"
    return f"damaged, or of a kind that cannot be decoded (FFmpeg says: {error.strerror})"
