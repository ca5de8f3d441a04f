"""Reading JSON files, and of configs the chains of ``default`` files behind a section."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from omnivast.config.fields import ConfigError, show
from omnivast.config.paths import PathError, expanded, looked_up
from omnivast.config.words import did_you_mean

SHIPPED = Path(__file__).resolve().parent
"""The folder of the configs that come with OmniVAST, in a checkout and in an installed package."""


def read_json(path: Path, fault: type[Exception], *, what: str = "file", expected: str = "JSON", wanted_by: str = "") -> Any:
    """The content of a JSON file, in UTF-8 with or without a byte order mark, or in UTF-16, as PowerShell's ``>`` writes it.

    Args:
        fault: raised, with a message that names the file, where there is none, or where it cannot be read or is not JSON.
        what, expected, wanted_by: words of messages: the kind of file, what it should hold, and (``" (named by --config)"``) who asks.
    """
    return parse_json(read_bytes(path, fault, what=what, wanted_by=wanted_by), path, fault, expected=expected, wanted_by=wanted_by)


def read_bytes(path: Path, fault: type[Exception], *, what: str = "file", wanted_by: str = "") -> bytes:
    """The content of a file; see :func:`read_json`."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise fault(f"{path}: no such {what}{looked_up(path)}{wanted_by}") from None
    except OSError as error:
        reason = "it is a folder" if path.is_dir() else error.strerror or error
        raise fault(f"{path}: cannot be read{wanted_by}: {reason}") from None


def parse_json(content: bytes | str, name: object, fault: type[Exception], *, expected: str = "JSON", wanted_by: str = "",
               strict: bool = False) -> Any:
    """The value that a JSON text stands for; ``name`` says in messages what holds it, see :func:`read_json` for the rest.

    ``strict`` also refuses what :mod:`json` lets pass: a key that an object has twice, and NaN.
    """
    hooks: dict[str, Any] = {"object_pairs_hook": _unique, "parse_constant": _no_constant} if strict else {}
    try:
        return json.loads(content, **hooks)
    except json.JSONDecodeError as error:
        if not content.strip():
            raise fault(f"{name}: the file is empty; expected {expected}{wanted_by}") from None
        if brace := _lacks_last_brace(content, error):
            raise fault(f"{name}: not JSON: {brace}{wanted_by}") from None
        one_per_line = error.msg == "Extra data" and error.lineno > 1
        hint = "; one object per line is JSON Lines: write one list of them" if one_per_line and not strict else ""
        hint = ". JSON has no comments and no comma after the last item" if strict else hint
        raise fault(f"{name}: not JSON: {why_not_json(error)}{hint}{wanted_by}") from None
    except (ValueError, RecursionError) as error:  # no text, numbers of thousands of digits, lists in lists in lists
        raise fault(f"{name}: not JSON: {why_not_json(error)}{wanted_by}") from None


def _lacks_last_brace(content: bytes | str, error: json.JSONDecodeError) -> str:
    """What is wrong with a text that ends before its last brace, as both published pretraining configs of VALOR do; "" where that is not
    what it lacks."""
    if error.doc[error.pos:].strip():
        return ""
    try:
        json.loads(error.doc + "}")
    except ValueError:
        return ""
    last = len(error.doc.rstrip().splitlines())
    return f"line {last}: one closing brace is missing at the end; add a line with }}"


def why_not_json(error: Exception) -> str:
    """Why a file is not JSON, from what reading it raised, in a user's words."""
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    if isinstance(error, UnicodeDecodeError):
        if error.object.startswith(b"\x1f\x8b") or b"\0" in error.object[:1024]:
            return "it is no text, but a packed or binary file"
        line = error.object.count(b"\n", 0, error.start) + 1
        return f"it is not UTF-8 (byte 0x{error.object[error.start]:02x} in line {line}); save it as UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "a number has thousands of digits" if "integer string conversion" in str(error) else str(error)


def read_config(path: Path, wanted_by: str = "") -> dict[str, Any]:
    """The JSON object in a config file. Raises ConfigError when it is absent, not JSON, or repeats a key."""
    content = parse_json(read_bytes(path, ConfigError, wanted_by=wanted_by), path, ConfigError, expected="a JSON object",
                         wanted_by=wanted_by, strict=True)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {show(content)}")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key '{key}' occurs twice in the same object")
        found[key] = value
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def with_bases(file: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A config's content, then that of the config which it names as ``base``, which it changes, then of that one's base, and so on.

    Raises ConfigError that names the whole chain for a missing file or a cycle.
    """
    found = [(file, read_config(file, " (named by --config)"))]
    while (base := found[-1][1].pop("base", None)) not in (None, ""):
        chain = [path for path, _ in found]
        file = _named_file("base", base, chain)
        if file.resolve() in [path.resolve() for path in chain]:
            raise ConfigError(f"the base files form a cycle: {_names([*chain, file])}")
        found.append((file, read_config(file, f" (named as base: {_names([*chain, file])})")))
    return found


def layers(section: str, own: dict[str, Any], file: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A section's own keys, then those of its ``default`` file, then of that file's ``default``, and so on.

    A relative path is looked for from the working directory, then from the folder of the file that names it, then among OmniVAST's
    own configs.
    Raises ConfigError that names the whole chain for a missing file or a cycle.
    """
    found: list[tuple[Path, dict[str, Any]]] = []
    chain = [file]
    seen: set[Path] = set()
    while True:
        keys = {key: value for key, value in own.items() if key != "default"}
        found.append((file, keys))
        if own.get("default") in (None, ""):
            return found
        file = _named_file(f"{section}.default", own["default"], chain)
        chain.append(file)
        if file.resolve() in seen:
            raise ConfigError(f"{section}: its default files form a cycle: {_names(chain)}")
        seen.add(file.resolve())
        own = read_config(file, f" ({section} names it as default: {_names(chain)})")
        whole = [key for key in ("run_cfg", "model_cfg", "data_cfg") if key in own]
        if whole:
            raise ConfigError(f"{file}: is the default file of {section} and may hold only keys of that section, not '{whole[0]}' "
                              f"({_names(chain)})")


def files_of(file: Path) -> list[Path]:
    """What a config consists of: its own file, its bases, and the default files of their sections. Raises ConfigError as those do."""
    found: dict[Path, None] = {}
    for source, content in with_bases(file):
        found[source] = None
        for section in ("run_cfg", "model_cfg"):
            if isinstance(own := content.get(section), dict):
                found |= dict.fromkeys(path for path, _ in layers(section, own, source))
    return list(found)


def _named_file(key: str, value: Any, chain: list[Path]) -> Path:
    """The JSON file that a config names under ``key``: ``base`` or ``model_cfg.default``."""
    if not isinstance(value, str):
        raise ConfigError(f"{chain[-1]}: {key}: expected the path of a JSON file, got {show(value)}")
    try:
        value = expanded(value)
    except PathError as error:
        raise ConfigError(f"{chain[-1]}: {key}: {error}") from None
    here, beside = Path(value), chain[-1].parent / value
    if not os.path.exists(here) and os.path.exists(beside):
        return beside
    shipped = _shipped(value)
    if not os.path.exists(here) and shipped is not None and shipped.is_file():
        return shipped
    if not os.path.exists(here):
        tried = f"{here}" if here == beside else f"{here} and {beside}"
        section, _, last = key.rpartition(".")
        raise ConfigError(f"{f'{section}: ' if section else ''}the {last} file {value} does not exist (looked for {tried}, from "
                          f"{os.getcwd()}); named by {_names(chain)}")
    return here


def find_config(path: str) -> Path:
    """``path`` where it is; else that of OmniVAST's own configs which it names: ``config/debug/tiny.json`` or ``debug/tiny.json``.

    Raises ConfigError, with the nearest of these, where there is neither.
    """
    here, shipped = Path(path), _shipped(path)
    if shipped is None or os.path.exists(here):
        return here
    if not shipped.is_file():
        own = [f"config/{file.relative_to(SHIPPED).as_posix()}" for file in SHIPPED.rglob("*.json")]
        raise ConfigError(f"{path}: no such file{looked_up(path)} (named by --config), nor one of OmniVAST's own configs."
                          f"{did_you_mean(path, own)}")
    return shipped


def _shipped(path: str) -> Path | None:
    """Where the config would be if OmniVAST had one of this name; None for what cannot be one."""
    parts = Path(path).parts
    if os.path.isabs(path) or ".." in parts or not path.endswith(".json"):
        return None
    return SHIPPED.joinpath(*parts[parts[:1] == ("config",):])


def _names(chain: list[Path]) -> str:
    return " -> ".join(map(str, chain))
