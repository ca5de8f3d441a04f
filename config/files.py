"""Reading config files: strict JSON, and the chains of ``default`` files behind a section."""

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


def read_text(path: Path) -> str:
    """A file of text as editors and shells write it: UTF-8 with or without a byte order mark, or UTF-16, as PowerShell's ``>`` does.

    Raises OSError, and UnicodeDecodeError for other encodings.
    """
    content = path.read_bytes()
    return content.decode(json.detect_encoding(content))


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


def read_json(path: Path, wanted_by: str = "") -> dict[str, Any]:
    """The JSON object in a file. Raises ConfigError, with file and line, when it is absent, not JSON, or repeats a key."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{looked_up(path)}{wanted_by}") from None
    except (OSError, ValueError) as error:
        reason = "it is a folder" if path.is_dir() else why_not_json(error)
        raise ConfigError(f"{path}: cannot be read as a text file{wanted_by}: {reason}") from None
    if not text.strip():
        raise ConfigError(f"{path}: the file is empty; expected a JSON object{wanted_by}")
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno}). "
                          "JSON has no comments and no comma after the last item.") from None
    except RecursionError as error:
        raise ConfigError(f"{path}: not a config: {why_not_json(error)}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
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
        file = _default_path(section, own["default"], chain)
        chain.append(file)
        if file.resolve() in seen:
            raise ConfigError(f"{section}: its default files form a cycle: {_names(chain)}")
        seen.add(file.resolve())
        own = read_json(file, f" ({section} names it as default: {_names(chain)})")
        whole = [key for key in ("run_cfg", "model_cfg", "data_cfg") if key in own]
        if whole:
            raise ConfigError(f"{file}: is the default file of {section} and may hold only keys of that section, not '{whole[0]}' "
                              f"({_names(chain)})")


def _default_path(section: str, value: Any, chain: list[Path]) -> Path:
    if not isinstance(value, str):
        raise ConfigError(f"{chain[-1]}: {section}.default: expected the path of a JSON file, got {show(value)}")
    try:
        value = expanded(value)
    except PathError as error:
        raise ConfigError(f"{chain[-1]}: {section}.default: {error}") from None
    here, beside = Path(value), chain[-1].parent / value
    if not os.path.exists(here) and os.path.exists(beside):
        return beside
    shipped = _shipped(value)
    if not os.path.exists(here) and shipped is not None and shipped.is_file():
        return shipped
    if not os.path.exists(here):
        tried = f"{here}" if here == beside else f"{here} and {beside}"
        raise ConfigError(f"{section}: the default file {value} does not exist (looked for {tried}, from {os.getcwd()}); "
                          f"named by {_names(chain)}")
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
