"""One comparison with one recorded value (:class:`Row`), and how values of each kind are compared. What families have in common."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivast.config.words import did_you_mean
from omnivast.model.interface import ModelError
from omnivast.model.weights import read_state_dict

TOLERANCES = {"output": 1e-5, "loss": 1e-5, "gradient": 1e-4, "spectrogram": 1e-4, "pixel": 1e-5, "sequence": 0.0}
"""Relative errors (norm of the difference over norm of the recorded value) of outputs, losses and gradients; largest differences of
normalised spectrograms and pixels; of sequences (texts, ids, choices) nothing may differ."""
UNSUPPORTED = "not supported by this version"


class FolderError(ValueError):
    """A folder that is not laid out as expected; the message names the file and the key."""


class UnsupportedError(ValueError):
    """A value, or a whole model, that this version cannot compute; the message says what is lacking."""


@dataclass(frozen=True)
class Row:
    """One comparison. An error that is not a number, or infinite (nothing to compare), is out of tolerance."""

    kind: str
    name: str
    error: float
    tolerance: float
    note: str = ""
    of: str = ""
    """The group of values that it is told with; "": what its name gives."""

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance

    @property
    def group(self) -> str:
        """The name with * in place of the modalities and of the number in a list: ``feat_va`` → ``feat_*``."""
        return self.of or re.sub(r"\[\d+\]$", "", re.sub(r"(?<=[_.])[tvas]{1,4}(?=[_.\[]|$)", "*", self.name))


@dataclass(frozen=True)
class Folder:
    """The files of a folder of recorded values."""

    path: Path
    golden: dict[str, Any]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path, names: Sequence[str], like: str) -> Folder:
        """``names``: the files besides golden.json and the two of tensors. Raises FolderError for what is not there."""
        wanted = [*names, "golden.json", "inputs.safetensors", "outputs.safetensors"]
        if absent := [name for name in wanted if not (path / name).is_file()]:
            raise FolderError(f"{path}: lacks {', '.join(absent)}; expected a folder laid out as {like}")
        return cls(path, read_golden(path), read_state_dict(path / "inputs.safetensors"), read_state_dict(path / "outputs.safetensors"))


def read_golden(path: Path) -> dict[str, Any]:
    """What a folder's golden.json holds. Raises FolderError where it is no JSON object."""
    file = path / "golden.json"
    try:
        golden = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FolderError(f"{file}: not JSON: {error}") from None
    if not isinstance(golden, dict):
        raise FolderError(f"{file}: expected an object of recorded values, got {type(golden).__name__}")
    return golden


def known(keys: Iterable[str], valid: Iterable[str], where: str) -> None:
    """Raise FolderError for a key that is not valid."""
    valid = list(valid)
    for key in keys:
        if key not in valid:
            raise FolderError(f"{where}: key '{key}' is not understood.{did_you_mean(key, valid) or ' Valid are ' + ', '.join(valid)}")


# --------------------------------------------------------------------------------------------------------------- comparing


def compare_tensor(name: str, made: Tensor, wanted: Tensor, kind: str = "output") -> Row:
    """Floats by relative error, integers by the number of entries that differ."""
    if made.shape != wanted.shape:
        return Row(kind, name, math.inf, 0.0, f"shape {tuple(made.shape)}, recorded {tuple(wanted.shape)}")
    if not wanted.is_floating_point():
        return Row(kind, name, int((made != wanted).sum()), 0.0)
    scale = float(wanted.norm()) or 1.0
    return Row(kind, name, float((made - wanted).norm()) / scale, TOLERANCES[kind])


def compare_largest(kind: str, name: str, made: Tensor, wanted: Tensor, tolerance: float | None = None) -> Row:
    """The largest difference of any entry."""
    if made.shape != wanted.shape:
        return Row(kind, name, math.inf, 0.0, f"shape {tuple(made.shape)}, recorded {tuple(wanted.shape)}")
    return Row(kind, name, float((made - wanted).abs().max()), TOLERANCES[kind] if tolerance is None else tolerance)


def compare_number(kind: str, name: str, made: float, wanted: float, noise: float = 0.0, of: str = "") -> Row:
    """Relative error; where it is too large, a difference of at most ``noise`` counts as none."""
    difference = abs(made - wanted)
    error = difference / abs(wanted) if wanted else math.inf if difference else 0.0
    error = 0.0 if difference <= noise and error > TOLERANCES[kind] else error
    return Row(kind, name, error, TOLERANCES[kind], f"{made:.9g}, recorded {wanted:.9g}" if not error <= TOLERANCES[kind] else "", of)


def compare_numbers(kind: str, made: Mapping[str, float], wanted: Mapping[str, float], noise: float = 0.0, of: str = "") -> Iterator[Row]:
    """A row per number. What only one side has is out of tolerance, unless ours is no more than ``noise``."""
    for name in dict.fromkeys([*wanted, *made]):
        if name not in made or (name not in wanted and not abs(made[name]) <= noise):
            note = "not recorded" if name in made else "has no gradient here" if kind == "gradient" else "not computed"
            yield Row(kind, name, math.inf, TOLERANCES[kind], note, of)
        elif name in wanted:
            yield compare_number(kind, name, made[name], wanted[name], noise, of)


def compare_sequence(name: str, made: Sequence[Any], wanted: Sequence[Any], of: str = "") -> Row:
    """The number of ids, or of letters, that differ."""
    differs = sum(a != b for a, b in zip_longest(made, wanted))
    return Row("sequence", name, differs, TOLERANCES["sequence"], f"{made}, recorded {wanted}" if differs else "", of)


def until(ids: list[int], end: int) -> list[int]:
    """The ids before the first ``end``."""
    return ids[:ids.index(end)] if end in ids else ids


# ------------------------------------------------------------------------------------------------------------ tables of lines


@dataclass(frozen=True)
class Line:
    """Recorded values that one function computes again.

    names: a regular expression for the whole of their names. compute: what is recorded and the expression's groups → the same value, made
    here; None: the values are inputs of others. lacking: what this version lacks to compute them, in place of ``compute``.
    """

    names: str
    compute: Callable[..., Any] | None = None
    lacking: str = ""


def check_lines(lines: Sequence[Line], kind: str, recorded: Mapping[str, Any], source: Any,
                compare: Callable[[str, Any, Any], Iterable[Row]]) -> Iterator[Row]:
    """The rows of every recorded value, by the first line that has its name. One that no line has, that is lacking, or whose computation
    raises UnsupportedError or ModelError, is out of tolerance and says so."""
    for name, wanted in recorded.items():
        found = next(((line, match) for line in lines if (match := re.fullmatch(line.names, name))), None)
        if found is None:
            yield Row(kind, name, math.inf, 0.0, f"{UNSUPPORTED}: it computes nothing of this name")
            continue
        line, match = found
        if line.lacking:
            yield Row(kind, name, math.inf, 0.0, f"{UNSUPPORTED}: {line.lacking}")
        elif line.compute is not None:
            try:
                with torch.no_grad():
                    made = line.compute(source, *match.groups())
            except (UnsupportedError, ModelError) as error:
                yield Row(kind, name, math.inf, 0.0, f"{UNSUPPORTED}: {error}")
            else:
                yield from compare(name, made, wanted)
