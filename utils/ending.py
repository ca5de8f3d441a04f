"""The end of a run that failed: one line that says why, and as few as can be from the launcher, which writes six for every process."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger("omnivast")


PATIENCE = 3.0
"""Seconds for which the process that says why waits for the others to end: those still there are ended, and reported, by torchrun."""


def end_with(message: str, status: int) -> int:
    """Log ``message`` and return the exit status that this process should end with.

    Under torchrun, when several processes of a machine fail for the same reason, only the first of them logs it and ends with ``status``,
    after the others. It also writes the reason to the file from which torchrun repeats it at the end. The others end quietly with 0, so
    that torchrun does not report them as failures.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file:
        logger.error("%s", message)
        return status
    # torchrun gives each process of a machine an error file in a separate folder; these folders lie side by side.
    claim = Path(file).parent.parent / f"said_{hashlib.sha256(message.encode()).hexdigest()[:16]}"
    try:
        claim.mkdir()
    except FileExistsError:
        (claim / str(os.getpid())).touch()
        return 0
    except OSError as error:  # then each says so itself
        logger.debug("%s cannot be made: %s", claim, error)
    logger.error("%s", message)
    told = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
    with suppress(OSError):  # torchrun does without
        Path(file).write_text(json.dumps({"message": told}))
    _wait_for_others(claim, int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1)
    return status


def _wait_for_others(claim: Path, number: int) -> None:
    """Wait until as many processes have left their process ids and ended, or until the others may be working on no longer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ending = [int(file.name) for file in claim.glob("*")]
        if len(ending) >= number and not any(map(_lives, ending)):
            return
        time.sleep(0.05)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True
