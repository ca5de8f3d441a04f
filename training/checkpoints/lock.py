"""One run per output folder: a lock that says who holds it, and that the system releases when its process dies, however it dies."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TextIO

from omnivast.training.checkpoints.checkpoint import OutputDirError, on_main
from omnivast.utils import distributed

logger = logging.getLogger("omnivast")


class OutputLock:
    """Within ``with``, on every rank, no other process can enter the lock of ``folder``; rank 0 holds it.

    A POSIX record lock on ``run.lock``: unlike flock it is not inherited by data workers, which may outlive a killed run for a while.
    The file's content is only for the message, so what a dead process left in it does no harm. Entering raises OutputDirError.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.lock"
        self.file: TextIO | None = None

    def __enter__(self) -> OutputLock:
        on_main(self._acquire)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.file is not None:
            with suppress(OSError):  # a disk that has just refused more than this
                self.file.truncate(0)
            self.file.close()

    def _acquire(self) -> None:
        try:
            file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 (held as long as the run)
        except OSError as error:
            raise OutputDirError(f"'{self.path}' cannot be opened ({error.strerror or error}); choose another --output_dir, or remove it "
                                 "when no run writes there") from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read()
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                logger.warning("'%s' cannot be locked (%s): take care that no second run writes there", self.path, error.strerror)
                return
            raise OutputDirError(f"the output folder '{self.path.parent}' is in use by {_named(holder)}; wait for that run or stop it, "
                                 "or choose another --output_dir") from error
        file.truncate(0)
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now().isoformat(" ", "seconds"),
                   "processes": distributed.world_size()}, file)
        file.flush()
        self.file = file


def _named(holder: str) -> str:
    try:
        details = json.loads(holder)
        return f"process {details['pid']} on host {details['host']} since {details['since']}"
    except (ValueError, KeyError, TypeError):
        return "another run"
