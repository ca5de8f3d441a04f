"""Fetches pretrained weights into pretrained_weights/, where runs look for them.

    python -m omnivast weights --config config/vast/finetune_cfg/retrieval-msrvtt.json
    python -m omnivast weights evaclip02_base ast timm:vit_base_patch16_dinov3 hf:openai/whisper-base text:bert-base-uncased

A download that broke continues where it stopped. What is there already, in the right size and hash, is left alone. Files that cannot be
fetched (OneDrive and Google Drive ask a person) are listed with where to get them and where they go.

Exit status: 0 everything is there; 1 a download failed; 2 bad input; 3 the rest is there, but files must be fetched by hand;
130 interrupted (run it again to continue).
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import shutil
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

from omnivast.config.load import ConfigError, load_config
from omnivast.config.paths import as_path
from omnivast.config.words import did_you_mean
from omnivast.model.build import ModelError, pretrained_files
from omnivast.model.weights import TOWER_FILES, TowerFile, text_file, tower_file, towers
from omnivast.model.weights.load import parts_of
from omnivast.utils.console import readers_may_leave
from omnivast.utils.files import sha256_file, write_atomically
from omnivast.utils.log import Progress, progress, setup_logging

CHUNK = 1 << 20
TRIES = 5
PAUSE = 2.0
"""Seconds before the first new try; twice as long before each further one."""
TIMEOUT = 60.0
USER_AGENT = "OmniVAST"
VAST_CHECKPOINT = ("VAST's own checkpoints (one for --pretrain_dir or --checkpoint, not a tower's file) are on Google Drive: see "
                   "github.com/TXH-mercury/VAST; unpack them anywhere")


class DownloadError(RuntimeError):
    """A file that could not be fetched; the message says what happened and what to do."""


class NotThereError(DownloadError):
    """The server has no such file."""


class UnreachableError(DownloadError):
    """Nobody knows the server's name: this machine is offline, or the name is wrong."""


class _BrokenOffError(Exception):
    """The connection ended early; the same request may go on where it stopped."""


@dataclass(frozen=True)
class Facts:
    """What is known of a file: bytes and SHA-256, None where not; ``validator``: an ETag or date that changes with the file."""

    size: int | None = None
    sha256: str | None = None
    validator: str | None = None


# --------------------------------------------------------------------------------------------------------------- one file


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps what the first answers say of the file: huggingface.co states size and SHA-256 there alone."""

    def __init__(self) -> None:
        self.linked: dict[str, str] = {}

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message,
                         newurl: str) -> urllib.request.Request | None:  # noqa: D102 (urllib's)
        self.linked.update({name: headers[name] for name in ("X-Linked-Size", "X-Linked-ETag") if headers[name]})
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def fetch(url: str, target: Path, known: Facts = Facts()) -> None:
    """Download ``url`` to ``target``: into ``target.part``, continued if it is there, then checked and renamed. Raises DownloadError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    for attempt in range(TRIES):
        try:
            facts = _request(url, part, known)
            break
        except (_BrokenOffError, urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429:
                kind = NotThereError if error.code in (404, 410) else DownloadError
                raise kind(f"{url}: the server answers {error.code} {error.reason}") from None
            reason = _words(getattr(error, "reason", None) or error, urllib.parse.urlsplit(url).hostname or url)
            if getattr(getattr(error, "reason", None), "errno", None) == socket.EAI_NONAME:
                raise UnreachableError(f"{url}: {reason}; is this machine offline? --list says what to fetch on another one, and where it "
                                       "goes; --mirror names another server") from None
            if attempt == TRIES - 1:
                kept = f"what came so far is in {part}: run this again to continue" if part.exists() else "nothing came; try again later"
                raise DownloadError(f"{url}: {reason}, {TRIES} times; {kept}") from None
            print(f"  {reason}; trying again", file=sys.stderr)
            time.sleep(PAUSE * 2**attempt)
    _verify(part, facts)
    _stamp(part).unlink(missing_ok=True)
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)


def _words(reason: object, host: str) -> str:
    """What hindered a download, in a user's words."""
    if isinstance(reason, socket.gaierror):
        return f"the server's name {host} was not found"
    if isinstance(reason, ConnectionRefusedError):
        return f"{host} refuses the connection"
    if isinstance(reason, TimeoutError):
        return f"{host} did not answer for {TIMEOUT:.0f} s"
    return str(getattr(reason, "strerror", None) or reason)


def _request(url: str, part: Path, known: Facts) -> Facts:
    """One request, appended to ``part`` where the server continues the same file, from the beginning otherwise."""
    have, stamp = part.stat().st_size if part.exists() else 0, _stamp(part)
    redirects = _Redirects()
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
    if have and stamp.exists():
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", stamp.read_text())
    elif have:
        have = 0
    try:
        response = urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":  # stopped when all had come
            return _facts(error, redirects, known, have)
        part.unlink()
        raise _BrokenOffError("what was fetched before does not fit the file") from None
    with response:
        start, total = _range(response)
        if start not in (0, have):
            part.unlink()
            raise _BrokenOffError("the server continues elsewhere than asked")
        facts = _facts(response, redirects, known, total)
        if facts.validator:
            write_atomically(stamp, facts.validator)
        else:
            stamp.unlink(missing_ok=True)
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise DownloadError(f"{part.parent}: {(total - start) / 2**30:.1f} GiB are to come, {free / 2**30:.1f} GiB are free")
        _receive(response, part, start, total)
    return facts


def _range(response: Any) -> tuple[int, int | None]:
    """(first byte that comes, bytes of the whole file or None) of an answer."""
    if response.status == 206:
        first, _, total = response.headers.get("Content-Range", "bytes 0-/*").removeprefix("bytes ").partition("/")
        return int(first.split("-")[0]), int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _facts(response: Any, redirects: _Redirects, known: Facts, total: int | None) -> Facts:
    """``known``, completed by what the server says."""
    linked = redirects.linked.get("X-Linked-ETag", "").strip('"')
    sha256 = linked if len(linked) == 64 and set(linked) <= set("0123456789abcdef") else None
    validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
    if validator and validator.startswith("W/"):
        validator = None
    return Facts(known.size or int(redirects.linked.get("X-Linked-Size", 0)) or total, known.sha256 or sha256, validator)


def _receive(response: Any, part: Path, start: int, total: int | None) -> None:
    done = start
    bar: Progress[Any]
    megabytes = -(-total // CHUNK) if total else None
    with open(part, "ab" if start else "wb") as file, progress(megabytes, f"  {part.stem}", initial=start // CHUNK, unit="MiB") as bar:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.update((done + len(chunk)) // CHUNK - done // CHUNK)
            done += len(chunk)
    if total is not None and done < total:
        raise _BrokenOffError(f"the connection ended after {done:,} of {total:,} bytes")


def _verify(part: Path, facts: Facts) -> None:
    """Raise DownloadError, and remove the file, when it is not the one that is wanted."""
    size = part.stat().st_size
    wrong = f"{size:,} bytes came, expected {facts.size:,}" if facts.size is not None and size != facts.size else ""
    if not wrong and facts.sha256 and (found := sha256_file(part)) != facts.sha256:
        wrong = f"its SHA-256 is {found}, expected {facts.sha256}"
    if wrong:
        part.unlink()
        _stamp(part).unlink(missing_ok=True)
        raise DownloadError(f"{part.stem}: {wrong}; what came was removed. Was it another file, or damaged on the way? Run this again")


def _stamp(part: Path) -> Path:
    """Where the validator of the file that ``part`` belongs to is kept."""
    return part.with_name(f"{part.name}.etag")


# ------------------------------------------------------------------------------------------------------------------ towers

OTHERWISE = {"vocab.txt": "tokenizer.json"}
"""What stands in for a file that a repository does not have."""
OPTIONAL = ("preprocessor_config.json", "tokenizer_config.json")


class Downloader:
    """Fetches files of towers, each once, and counts what happened."""

    def __init__(self, mirror: str | None = None) -> None:
        self.mirror = mirror
        self.by_hand: list[TowerFile] = []
        self.failed: list[str] = []
        self._unreachable: set[str] = set()

    def tower(self, file: TowerFile) -> None:
        """The weights of one tower and what goes with them. Failures are noted, not raised."""
        if file.url is None:
            if file.place.is_file():
                self._there(file.place)
            else:
                self.by_hand.append(file)
            return
        try:
            for name in file.beside:
                self._beside(file, name)
            if file.place.is_file() and self._fits(file.place, file):
                self._there(file.place)
            else:
                self._weights(file)
        except DownloadError as error:
            self.failed.append(f"{error}\n  or by hand: {file.by_hand}; to {file.place}")
        except OSError as error:
            self.failed.append(f"{file.place} cannot be written: {error}; name another folder with --folder")

    def _weights(self, file: TowerFile) -> None:
        target = towers.WEIGHTS / file.path
        if target.name != towers.HUGGING_FACE[0]:
            return self._get(str(file.url), target, Facts(file.size, file.sha256))
        for name in towers.HUGGING_FACE:
            try:
                known = Facts(file.size, file.sha256) if target.name == name else Facts()
                self._get(_sibling(str(file.url), name), target.with_name(name), known)
            except NotThereError:
                continue
            if name.endswith(".index.json"):
                for part in parts_of(target.with_name(name)):
                    if not target.with_name(part).is_file():
                        self._get(_sibling(str(file.url), part), target.with_name(part))
            return None
        raise NotThereError(f"{file.url}: neither this nor {', '.join(towers.HUGGING_FACE[1:])}")

    def _beside(self, file: TowerFile, name: str) -> None:
        target = (towers.WEIGHTS / file.path).with_name(name)
        if target.is_file() or target.with_name(OTHERWISE.get(name, name)).is_file():
            return
        try:
            self._get(_sibling(str(file.url), name), target)
        except NotThereError:
            if name in OTHERWISE:
                self._get(_sibling(str(file.url), OTHERWISE[name]), target.with_name(OTHERWISE[name]))
            elif name not in OPTIONAL:
                raise

    def _get(self, url: str, target: Path, known: Facts = Facts()) -> None:
        if self.mirror:
            there, mirror = urllib.parse.urlsplit(url), urllib.parse.urlsplit(self.mirror)
            url = urllib.parse.urlunsplit((mirror.scheme, mirror.netloc, mirror.path.rstrip("/") + there.path, there.query, ""))
        host = urllib.parse.urlsplit(url).netloc
        if host in self._unreachable:
            raise UnreachableError(f"{url}: not tried, as {host} was not found before")
        try:
            fetch(url, target, known)
        except UnreachableError:
            self._unreachable.add(host)
            raise
        print(f"fetched {target} ({target.stat().st_size / 2**20:,.1f} MiB)")

    def _fits(self, place: Path, file: TowerFile) -> bool:
        """Whether a file that is there is the one wanted, as far as that is known; an index needs its parts."""
        if place.name.endswith(".index.json"):
            return all(place.with_name(part).is_file() for part in parts_of(place))
        if place.name != Path(file.path).name:
            return True
        return file.size in (None, place.stat().st_size) and (file.sha256 is None or sha256_file(place) == file.sha256)

    def _there(self, place: Path) -> None:
        print(f"there   {place}")


def _sibling(url: str, name: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{name}"


def files_of(names: Sequence[str], config: str | None) -> list[tuple[str, TowerFile]]:
    """(name, file) of encoders by name, ``text:<name>`` for a BERT, and of a config. Raises ValueError naming the nearest."""
    found = []
    for name in names:
        family, _, rest = name.partition(":")
        file = text_file(rest) if family == "text" and rest else tower_file(name)
        if file is None:
            valid = [*TOWER_FILES, "timm:<name>", "open_clip:<name>:<tag>", "hf:<name>", "beats:<file>", "text:<name>"]
            raise ValueError(f"no encoder '{name}' with a file; valid are {', '.join(valid)}.{did_you_mean(name, TOWER_FILES)}")
        found.append((name, file))
    if config is not None:
        model = load_config(["--config", config]).model_cfg
        if not model.pretrained:
            print(f"{config}: \"pretrained\" is false: its towers start from scratch and need no files")
        found += [(f"text:{name}" if tower == "text" else name, file) for tower, name, file in pretrained_files(model)]
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m omnivast weights", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("names", nargs="*", metavar="name", help="encoders as configs name them (--list shows those of the release), and "
                                                                 "text:<name> for a BERT of huggingface.co")
    result.add_argument("--config", help="fetch what this config's towers start from")
    result.add_argument("--list", action="store_true", help="only say what there is, where it belongs and where it comes from")
    result.add_argument("--folder", type=as_path, default=towers.WEIGHTS, help="where files go (default %(default)s, where runs look)")
    result.add_argument("--mirror", metavar="URL", help="fetch from this server instead of each file's own, by the same path")
    return result


@readers_may_leave()
def main(argv: Sequence[str]) -> int:
    """Returns the exit status."""
    options = parser().parse_args(argv)
    setup_logging(None)
    towers.WEIGHTS = options.folder
    everything = options.list and not (options.names or options.config)
    try:
        wanted = files_of([*TOWER_FILES, "text:bert-base-uncased"] if everything else options.names, options.config)
    except (ValueError, ConfigError, ModelError) as error:
        print(f"weights: {error}", file=sys.stderr)
        return 2
    if options.mirror and not re.match("https?://[^/]", options.mirror):
        print(f"weights: --mirror: expected a URL such as https://mirror.example, got '{options.mirror}'", file=sys.stderr)
        return 2
    if not wanted and not options.config:
        parser().print_usage(sys.stderr)
        print("weights: name encoders, or a config with --config", file=sys.stderr)
        return 2
    if options.list:
        for name, file in wanted:
            print(f"{'there  ' if file.place.is_file() else 'missing'} {name}\n        {file.place}\n        {file.url or file.by_hand}")
        print(VAST_CHECKPOINT)
        return 0
    downloader = Downloader(options.mirror)
    try:
        for file in dict(wanted).values():
            downloader.tower(file)
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to continue", file=sys.stderr)
        return 130
    for problem in downloader.failed:
        print(f"FAILED  {problem}", file=sys.stderr)
    for file in downloader.by_hand:
        print(f"BY HAND {file.by_hand}\n        to {file.place}", file=sys.stderr)
    return 1 if downloader.failed else 3 if downloader.by_hand else 0
