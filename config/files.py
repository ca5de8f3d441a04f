"""Reading config files: strict JSON, and the chains of ``default`` files behind a section."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from config.fields import ConfigError, show


def read_json(path: Path, wanted_by: str = "") -> dict[str, Any]:
    """The JSON object in a file. Raises ConfigError, with file and line, when it is absent, not JSON, or repeats a key."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{wanted_by}") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = "it is a folder" if path.is_dir() else str(error)
        raise ConfigError(f"{path}: cannot be read as a text file{wanted_by}: {reason}") from None
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno}). "
                          "JSON has no comments and no comma after the last item.") from None
    except RecursionError:
        raise ConfigError(f"{path}: not a config: nested too deeply") from None
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

    A relative path is looked for from the working directory, then from the folder of the file that names it.
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
    here, beside = Path(value), chain[-1].parent / value
    if not os.path.exists(here) and os.path.exists(beside):
        return beside
    if not os.path.exists(here):
        tried = f"{here}" if here == beside else f"{here} and {beside}"
        raise ConfigError(f"{section}: the default file {value} does not exist (looked for {tried}); named by {_names(chain)}")
    return here


def _names(chain: list[Path]) -> str:
    return " -> ".join(map(str, chain))
