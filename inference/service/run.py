"""Start the service: check what it is asked for before anything is loaded, then answer until a signal ends it."""

from __future__ import annotations

import gc
import logging
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omnivast.config.extras import import_extra
from omnivast.config.paths import as_path, looked_up
from omnivast.inference.index.api import HIDDEN, Index, has_index, place_of
from omnivast.inference.index.store import META, BadIndexError
from omnivast.inference.pipeline import Pipeline, load

GRACE = 8
"""Seconds in which what runs may finish when the service is to end."""
TOKEN = "OMNIVAST_TOKEN"

logger = logging.getLogger("omnivast")


class ServeError(ValueError):
    """A service that cannot be started as asked."""


def check_token(host: str, token: str | None) -> None:
    """Raise ServeError where others could reach the service without one."""
    from omnivast.inference.service.guard import is_loopback

    if token is None and not is_loopback(host):
        raise ServeError(f"at {host} others can reach the service: give it a token that they must know, in the environment variable "
                         f"{TOKEN} ({TOKEN}=$(openssl rand -hex 16)), or let it answer this machine only (--host 127.0.0.1)")
    if token is not None and not re.fullmatch(r"[\w.~-]{8,200}", token, re.ASCII):
        raise ServeError("a token has 8 to 200 letters, digits, '-', '_', '.' or '~', such as openssl rand -hex 16 makes")


def open_library(place: str | Path, model: Pipeline | None, index: Path | None = None, uploads: bool = False) -> Any:
    """The Library of an index, or of a folder of files: the index that is there, or none yet. ``model``: None: the index's own."""
    from omnivast.inference.service.library import Library

    path = as_path(str(place))
    if not path.is_dir():
        raise BadIndexError(f"{path}: no such folder{looked_up(path)}")
    alone = (path / META).is_file()
    if alone and (index is not None or uploads):
        raise ServeError(f"{path} is an index, which is served as it is; name the folder of its files to keep it up to date or to add to "
                         "it")
    folder = place_of(path) if alone else index or path / HIDDEN
    known = Index.open(folder, model) if has_index(folder) else None
    if known is None and model is None:
        raise ServeError(f"{path} has no index yet: name the model that is to make it with --model")
    return Library(model or known.model, known, folder, None if alone else path.resolve(), uploads)  # type: ignore[union-attr]


def serve(place: str | Path, *, model: str | Path | None = None, device: str = "auto", precision: str | None = None,
          index: Path | None = None, host: str = "127.0.0.1", port: int = 8000, token: str | None = None, uploads: bool = False,
          upload_mb: int | None = None, batch: int | None = None, say: Callable[[str], None] = logger.info) -> None:
    """Serve until SIGTERM or SIGINT. A folder's index is brought up to date in the background, and can be searched meanwhile.

    Args:
        place: an index, which is served as it is, or a folder of files.
        model: what embeds, captions and answers; None: the model of the index.
        index: where the index of a folder lies; None: inside it.
        token: what clients must know; needed where ``host`` is not this machine alone.
        uploads: whether clients may add files to the folder.
        upload_mb: the largest request with files, in MB; None: 2,147.
        batch: texts embedded at once, of those that wait; None: 32.
        say: what the address is told to.
    """
    for package in ("fastapi", "python_multipart", "uvicorn"):
        import_extra(package)
    check_token(host, token)
    import uvicorn

    from omnivast.inference.service.app import BATCH, Service, create_app
    from omnivast.inference.service.guard import is_loopback
    from omnivast.inference.service.uploads import Limits

    bound = _bound(host, port)
    limits = Limits() if upload_mb is None else Limits(upload=upload_mb * 1_000_000)
    library = open_library(place, None if model is None else load(model, device=device, precision=precision), index, uploads)
    if library.source is not None:
        library.update()
    app = create_app(Service(library, limits, batch=batch or BATCH), token=token, loopback=is_loopback(host))
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE, server_header=False,
                            timeout_keep_alive=30)
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{bound.getsockname()[1]} serves {place}; Ctrl-C ends it")
    # What is loaded by now stays: to look through it for garbage again and again would hold up every request by a quarter of a second.
    gc.collect()
    gc.freeze()
    uvicorn.Server(config).run([bound])


def _bound(host: str, port: int) -> socket.socket:
    """The address, taken before a model is loaded in vain."""
    if not 0 <= port < 1 << 16:
        raise ServeError(f"--port {port}: expected 0 (any that is free) to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ServeError(f"{host}:{port} cannot be used: {error.strerror or error}; choose another with --port") from None
    return bound
