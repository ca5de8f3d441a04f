"""What is served: a model, the index of a folder, and the thread that brings it up to date while it is searched."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omnivast.inference.index.api import Index
from omnivast.inference.index.build import find
from omnivast.inference.index.weights import track_weights
from omnivast.inference.moments import STRIDE, WINDOW
from omnivast.inference.pipeline import Pipeline
from omnivast.inference.service.uploads import MEDIA, RefusedError, Uploaded

UPLOADS = "uploads"
"""The folder below the root that files which are added go into."""
OPENED_AGAIN = 30.0
"""Seconds between two looks at an index that is being made, so that what it has can be searched."""
FAULTS = 50

logger = logging.getLogger("omnivast")


class StoppedError(Exception):
    """The service ends; an index goes on where it was when it is next brought up to date."""


class Library:
    """An index, opened; None while a new one is being made. Of a model that compares no texts with clips, the files of a folder alone.

    Args:
        folder: where the index lies.
        source: the folder of files that it is kept up to date with; None: it stays as it is.
        uploads: whether files may be added to ``source``.
    """

    def __init__(self, model: Pipeline, index: Index | None, folder: Path, source: Path | None, uploads: bool) -> None:
        self.model, self.folder, self.source, self.uploads = model, folder, source, uploads and source is not None
        self.index: Index | None = None
        self.root: Path | None = None
        self.paths: frozenset[str] = frozenset()
        self.faults: dict[str, str] = {}
        self.moments = 0
        if index is not None:
            self._use(index)
        self.state, self.error = "ready", ""
        self.done = self.total = 0
        self._again = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()

    # -------------------------------------------------------------------------------------------------------------- files

    def path(self, given: str, field: str) -> Path:
        """The file of a path in the index. Nothing else can be reached: not what the index does not hold, and nothing outside its root,
        wherever links lead. Raises RefusedError."""
        if self.root is None or given not in self.paths:
            raise RefusedError(404, field, "is not in the index")
        try:
            root = self.root.resolve(strict=True)
            path = (root / given).resolve(strict=True)
        except (OSError, ValueError):
            raise RefusedError(404, field, "the file is gone") from None
        if root not in path.parents or not path.is_file():
            raise RefusedError(403, field, "lies outside the folder that is served")
        return path

    def add(self, file: Uploaded) -> str:
        """Keep a file that was uploaded, beside those of the same name. Returns its path below the root. Raises RefusedError."""
        if not self.uploads or self.source is None:
            raise RefusedError(403, "clip", "this service takes no files; start it on a folder with --uploads")
        if Path(file.name).suffix.lower() not in MEDIA:
            raise RefusedError(422, "clip", f"expected a name with an ending of a video, picture or sound, such as .mp4, .png or .wav; got "
                                            f"'{file.name}'")
        folder = self.source / UPLOADS
        try:
            folder.mkdir(exist_ok=True)
            if self.source.resolve() not in folder.resolve().parents:
                raise RefusedError(403, "clip", f"{UPLOADS}/ leads out of the folder that is served")
            place = _free(folder, file.name)
            coming = place.with_name(f".{place.name}.part")  # hidden: no index takes it
            shutil.move(file.path, coming)
            os.replace(coming, place)
        except OSError as error:
            status = 507 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 403
            raise RefusedError(status, "clip", f"cannot be kept: {error.strerror}") from None
        return place.relative_to(self.source).as_posix()

    # -------------------------------------------------------------------------------------------------------------- index

    def update(self) -> None:
        """Bring the index up to date in the background; once more where that is going on. Raises RefusedError."""
        if self.source is None:
            raise RefusedError(409, None, "this index is served as it is; start the service on the folder of its files to keep it up to "
                                          "date")
        with self._lock:
            self._again = True
            if self._thread is None:
                self.state, self.error, self.done, self.total = "indexing", "", 0, 0
                self._thread = threading.Thread(target=self._update, name="indexing", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End what goes on in the background, at the next file."""
        self._ended.set()

    def _update(self) -> None:
        while True:
            with self._lock:
                if not self._again:
                    self._thread = None
                    return
                self._again, self.state = False, "indexing"
            try:
                self._look_through() if self.model.groups("ret") else self._list()
                self.state, self.error = "ready", ""
            except StoppedError:
                logger.info("%s: goes on when it is next served", self.folder)
                return
            except Exception as error:  # what is wrong with a folder, or a full disk, must not end the service
                logger.warning("%s: could not be brought up to date: %s", self.folder, error)
                self.state, self.error = "failed", str(error)

    def _look_through(self) -> None:
        window, stride = self._windows()
        self._use(Index(self.source or self.folder, self.model, folder=self.folder, window=window, stride=stride,
                        on_progress=self._watch(time.monotonic())))

    def _list(self) -> None:
        """The files are there to be captioned and asked about; nothing is searched."""
        files = find(self.source or self.folder)
        self.root, self.paths = files.root, frozenset(files.by_path)

    def _windows(self) -> tuple[float, float]:
        """As they are in the index that is there."""
        return (self.index.store.meta.window, self.index.store.meta.stride) if self.index else (WINDOW, STRIDE)

    def _watch(self, opened: float) -> Callable[[int, int], None]:
        """What is called with (files done, files in all) after each file."""
        def on_progress(done: int, total: int) -> None:
            nonlocal opened
            self.done, self.total = done, total
            if self._ended.is_set():
                raise StoppedError
            if time.monotonic() - opened > OPENED_AGAIN:
                self._use(Index.open(self.folder, self.model))
                opened = time.monotonic()

        return on_progress

    def _use(self, index: Index) -> None:
        """Search this one from now on. The one before is closed when the last search of it ends."""
        index.searcher.prepare(track_weights(None))  # or the first search would wait for it
        files = index.store.files()
        faults = {path: file.fault.replace(f"{index.root}/", "") for path, file in files.items() if file.fault}
        self.index, self.root, self.moments = index, index.root, len(index)
        self.paths = frozenset(path for path in files if path not in faults)
        self.faults = dict(list(faults.items())[:FAULTS])

    def status(self) -> dict[str, Any]:
        """What ``/api/index`` tells."""
        groups = {modality.value for group in self.model.groups("ret") for modality in group}
        verbs = {"search": "ret", "caption": "cap", "answer": "qa", "chat": "chat"}
        return {"state": self.state, "error": self.error or None, "files": len(self.paths), "moments": self.moments, "done": self.done,
                "total": self.total, "faults": self.faults,
                "tracks": [name for name, letter in (("seen", "v"), ("heard", "a"), ("said", "s")) if letter in groups],
                "verbs": [verb for verb, objective in verbs.items() if self.model.groups(objective)], "uploads": self.uploads,
                "follows": self.source is not None, "model": Path(self.model.place).name}


def _free(folder: Path, name: str) -> Path:
    """A name that is not taken yet, made at once so that nobody else takes it."""
    for number in range(10_000):
        place = folder / (name if not number else f"{Path(name).stem}-{number}{Path(name).suffix}")
        try:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            continue
        return place
    raise RefusedError(409, "clip", f"there are too many files named {name}")
