"""Which models write captions, as people name them: folders, or a JSON file that lists them with their settings.

    [{"name": "vast", "folder": "output/quickstart/cap"},
     {"name": "blip2", "folder": "models/blip2"},
     {"name": "qwen", "endpoint": "http://localhost:8000/v1", "model": "Qwen/Qwen3-VL-8B", "pictures": 4,
      "inputs": ["subtitle", "title", "description"]}]
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omnivast.config.paths import as_path
from omnivast.config.words import did_you_mean
from omnivast.corpus.captions.prompts import INPUTS
from omnivast.corpus.models import fingerprint
from omnivast.corpus.plan import BuildError

Kind = Literal["omnivast", "pictures", "endpoint"]
OURS = ("log/hps.json", "inference.json")
"""Of a training's output folder, and of one made to be shared."""
CAPTIONS = {"omnivast": 5, "pictures": 1, "endpoint": 1}
"""Of each kind that a model writes of a clip: five as in VAST, one as in Panda-70M."""


class TeacherError(BuildError):
    """A model that cannot write captions here; the message says what was expected."""


@dataclass(frozen=True)
class Teacher:
    """A model and how it is asked."""

    name: str
    """In results; letters, digits, ``-``, ``_`` and ``.``."""
    folder: str | None = None
    """A model of ours, or one of transformers that turns pictures into text."""
    endpoint: str | None = None
    """The address of a model that sees, what stands before ``/chat/completions``."""
    model: str = ""
    """How the endpoint calls it."""
    captions: int = 0
    """Of each kind for a clip; 0: 5 by a model of ours, else 1."""
    pictures: int = 1
    """That are shown of a clip; a model of ours sees it as in its training."""
    inputs: tuple[str, ...] = ()
    """What it is told besides, some of subtitle, title and description."""
    seed: int = 0
    temperature: float = 0.0
    """An endpoint's."""
    tokens: int = 96
    """Of a caption at most."""
    side: int = 512
    """Pixels of the longer side of pictures that are sent."""
    concurrency: int = 8
    """Clips that an endpoint is asked about at once."""
    per_minute: float | None = None
    """Requests to an endpoint; None: as many as it answers."""
    requests: int | None = None
    """To an endpoint in all, by each call; None: as many as are needed."""

    @property
    def kind(self) -> Kind:
        if self.endpoint is not None:
            return "endpoint"
        return "omnivast" if any((_run_of(self.folder) / name).is_file() for name in OURS) else "pictures"

    @property
    def number(self) -> int:
        """Captions of each kind."""
        return self.captions or CAPTIONS[self.kind]

    @property
    def decisive(self) -> dict[str, Any]:
        """What its captions depend on, ready for JSON."""
        how = ("name", "model", "pictures", "inputs", "seed", "temperature", "tokens", "side")
        return {**{key: getattr(self, key) for key in how}, "number": self.number, "weights": self._weights()}

    def _weights(self) -> str | None:
        """Which model it is, wherever it lies."""
        if self.folder is None:
            return self.endpoint
        run = _run_of(self.folder)
        if not (run / OURS[0]).is_file():
            return fingerprint(run)
        named = as_path(self.folder)
        return fingerprint(run, (OURS[0], f"ckpt/{named.name}" if named != run else "ckpt/model_step_*"))


def _run_of(folder: str | None) -> Path:
    """The folder of a run, of which a checkpoint may be named."""
    path = as_path(folder or "")
    return path.parent.parent if path.is_file() and path.suffix == ".pt" else path


def read_teachers(words: Sequence[str]) -> list[Teacher]:
    """The teachers that ``--captioner`` names, each a folder or a JSON file. Raises TeacherError, OSError."""
    found: list[Teacher] = []
    for word in words:
        path = as_path(word)
        found += _listed(path) if path.suffix == ".json" and path.is_file() else [_of_folder(path)]
    for one in found:
        _check(one)
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TeacherError(f"--captioner: two are called {', '.join(twice)}; a JSON file can give each a \"name\" of its own")
    return found


def _of_folder(path: Path) -> Teacher:
    named = path.parent.parent if path.suffix == ".pt" else path
    return Teacher(re.sub(r"[^\w.-]", "_", named.resolve().name), str(path))


def _listed(path: Path) -> list[Teacher]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TeacherError(f"{path}: no JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        raise TeacherError(f"{path}: expected a list of teachers, [{{\"name\": …, \"folder\": …}}, …]")
    fields = {field.name: field for field in dataclasses.fields(Teacher)}
    found = []
    for number, row in enumerate(rows):
        for key, value in row.items():
            if key not in fields:
                raise TeacherError(f"{path}: teacher {number + 1} has '{key}', which is no setting.{did_you_mean(key, fields)} There are "
                                   f"{', '.join(fields)}")
            _check_type(path, number, key, value, str(fields[key].type))
        if "name" not in row:
            raise TeacherError(f"{path}: teacher {number + 1} has no name")
        found.append(Teacher(**{**row, "inputs": tuple(row.get("inputs", ()))}))
    return found


def _check_type(path: Path, number: int, key: str, value: Any, kind: str) -> None:
    expected = {"str": str, "int": int, "float": (int, float), "tuple[str, ...]": list}[kind.removesuffix(" | None")]
    if isinstance(value, bool) or not isinstance(value, expected):  # type: ignore[arg-type]
        raise TeacherError(f"{path}: teacher {number + 1}: '{key}' is {json.dumps(value)}; expected {kind}")


def _check(one: Teacher) -> None:
    where = f"the captioner '{one.name}'"
    if not re.fullmatch(r"[\w.-]+", one.name):
        raise TeacherError(f"{where}: its name may have letters, digits, '-', '_' and '.'")
    if (one.folder is None) == (one.endpoint is None):
        raise TeacherError(f"{where}: expected either a folder or an endpoint")
    if one.endpoint is not None and not one.model:
        raise TeacherError(f"{where}: an endpoint needs a model, by the name that it knows")
    for name in one.inputs:
        if name not in INPUTS:
            raise TeacherError(f"{where}: inputs has '{name}'.{did_you_mean(name, INPUTS)} There are {', '.join(INPUTS)}")
    for key in ("pictures", "tokens", "side", "concurrency"):
        if getattr(one, key) < 1:
            raise TeacherError(f"{where}: {key} is {getattr(one, key)}; expected 1 or more")
    if one.captions < 0 or one.temperature < 0:
        raise TeacherError(f"{where}: captions and temperature are 0 or more")
    if one.endpoint is not None and one.number > 1 and one.temperature == 0:
        raise TeacherError(f"{where}: {one.number} captions at temperature 0 are the same; give a temperature, 0.7 for instance")
    if one.folder is not None and one.kind == "pictures" and not (as_path(one.folder) / "config.json").is_file():
        raise TeacherError(f"{where}: {one.folder} is neither the output folder of a training with captions (log/hps.json), nor a folder "
                           "of transformers (config.json)")
