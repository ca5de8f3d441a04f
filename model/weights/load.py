"""Loads state dicts from disk into a model, with a strict report of what did not fit."""

from __future__ import annotations

import difflib
import json
import logging
import math
import pickle
import re
import shlex
import zipfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from omnivast.config.paths import looked_up
from omnivast.model.interface import Model, Names
from omnivast.model.weights.origin import explained
from omnivast.model.weights.torchscript import is_torchscript, read_torchscript
from omnivast.model.weights.towers import TowerFile
from omnivast.model.weights.wrappers import foreign_start, unwrapped
from omnivast.utils.files import sha256_file

log = logging.getLogger("omnivast")
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


class WeightsError(ValueError):
    """A checkpoint that is absent, unreadable, unsafe or of another model; the message names the file and the tensors."""


@dataclass(frozen=True)
class LoadReport:
    """What happened: tensors the file lacked, had in excess, and were dropped on purpose; all empty for a perfect fit."""

    path: str
    sha256: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...]
    interpolated: tuple[str, ...]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a ``.safetensors`` or a torch file, whatever its extension; {"model": …} and the like are unwrapped,
    and so are names: without ``module.``, ``model.`` before all of them, ``_orig_mod.`` and others of :mod:`.wrappers`.

    Raises WeightsError when the file is absent, broken, or a pickle that holds anything but tensors and plain values
    (which is refused, not executed).
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(_absent(path))
    if path.name.endswith(".index.json"):
        return {name: tensor for part in parts_of(path) for name, tensor in read_state_dict(path.with_name(part)).items()}
    content = _read(path)
    for key in ("model", "state_dict", "module"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path}: expected a state dict (names with tensors), found {_kind(content)}")
    plain = unwrapped(content)
    if len(set(plain.values())) < len(plain):
        twice = [name for name, short in plain.items() if list(plain.values()).count(short) > 1][:2]
        raise WeightsError(f"{path}: '{twice[0]}' and '{twice[1]}' are both '{plain[twice[0]]}' without what other programs add to names")
    return {plain[name]: tensor for name, tensor in content.items()}


def _absent(path: Path) -> str:
    neighbours = [p.name for p in path.parent.glob("*") if p.suffix in SUFFIXES] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, neighbours, n=1, cutoff=0.4)
    return f"no weights at {path}{looked_up(path)}" + (f"; that folder has '{near[0]}'" if near else "")


def _kind(content: Any) -> str:
    """What a file holds instead of a state dict, in words."""
    if not isinstance(content, dict):
        return type(content).__name__
    if "optimizer" in content:
        return "the state of a training; its weights are in the model_step_N.pt beside it"
    return f"a dict of {', '.join(map(str, list(content)[:5]))}, …" if content else "an empty dict"


def parts_of(index: Path) -> list[str]:
    """The files that an index of a model in several files lists."""
    return sorted({Path(part).name for part in json.loads(index.read_text())["weight_map"].values()})


def _read(path: Path) -> Any:
    """The content of a file, its tensors left on disk until they are used. Raises WeightsError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if is_torchscript(path):
            return read_torchscript(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, str(error))) from None
    except (RuntimeError, EOFError, OSError, ValueError, SafetensorError, zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint (truncated, or another format): "
                           + (str(error).splitlines() or ["it ends too early"])[0]) from None


def _refusal(path: Path, reason: str) -> str:
    """Why torch refused to unpickle a file, in our words: torch's message would advise to unpickle it after all."""
    with open(path, "rb") as file:
        head = file.read(12)
    if not head.startswith((b"PK", b"\x80")):
        return f"{path}: not a readable checkpoint: neither a torch file nor safetensors (it begins with {head!r})"
    name = re.search(r"GLOBAL:? ([\w.]+)", reason)
    return (f"{path}: refused, because it holds more than tensors and plain values{f' ({name[1]})' if name else ''} and could run code "
            "when read. Save it again with torch.save(model.state_dict(), …) or as safetensors")


def load_weights(model: Model, path: str | Path, allow_missing: Sequence[str] = ()) -> LoadReport:
    """Load a whole model's checkpoint, ours or the release's.

    Older spellings are read as today's; frame and position embeddings of other lengths are interpolated. A tensor missing, in excess or
    of another shape is an error unless its name begins as one of ``allow_missing`` says (``*`` stands for anything); tensors that the
    release carries without use are dropped by name.
    """
    wanted = model.state_dict()
    given_state = read_current(path, model.names, wanted)
    state, dropped = split_unused(given_state, model.names, wanted)
    interpolated, wrong = [], {}
    for name, tensor in state.items():
        if name in wanted and wanted[name].shape != tensor.shape:
            fitted = _interpolate(name, tensor, wanted[name])
            if fitted is None:
                wrong[name] = f"{name}: file {tuple(tensor.shape)}, model {tuple(wanted[name].shape)}"
            else:
                state[name] = fitted
                interpolated.append(name)
    state = {name: tensor for name, tensor in state.items() if name not in wrong}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    given = {id(parameters[name]) for name in state if name in parameters}
    # One that the model has under two names may be saved under one.
    missing = tuple(name for name in wanted if name not in state and id(parameters.get(name)) not in given)
    unexpected = tuple(name for name in state if name not in wanted)
    lacks, unknown, shapes = ([name for name in names if not begins(name, allow_missing)]
                              for names in ((n for n in missing if n not in wrong and not begins(n, model.names.apart)), unexpected, wrong))
    problems = [*_listed("lacks", lacks, state), *_listed("has unknown", unknown, wanted)]
    if shapes:
        problems.append(f"{len(shapes)} tensor(s) have another shape; was the checkpoint made with other sizes in model_cfg?\n  "
                        + "\n  ".join(wrong[name] for name in shapes[:8]) + ("\n  …" if len(shapes) > 8 else ""))
    why = "".join(f"{reason}\n  " for reason in explained(model, read_state_dict(path), given_state)) if problems else ""
    if problems and not any(name in wanted for name in state):
        # What would let it pass would leave the whole model as initialised.
        parts = f"the file has {_examples(state)}\n  the model has {_examples(wanted)}"
        raise WeightsError(f"{path}: {why}none of its {len(state) + len(wrong)} tensors is one of the model's: it is of another model, or "
                           f"of other sizes\n  {problems[-1] if shapes else parts}")
    if problems:
        starts = _starts([*lacks, *unknown, *shapes], [name for name in wanted if name in state])
        raise WeightsError(f"{path}: {why}" + "; ".join(problems) + "\nIf that is intended (run_cfg.allow_missing; what it names keeps its "
                           f"initial values or is left unread): --allow_missing {shlex.join(starts)}")
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in wanted}, strict=False)
    own = [name for name in missing if begins(name, model.names.apart)]
    if own:
        log.info("%s: without %s, which begin as this model makes them", path, " and ".join(sorted({n.split(".")[0] for n in own})))
    lost = [name for name in missing if name not in own]
    for kind, names in (("missing, left as initialised", lost), ("unknown, left unread", unexpected), ("interpolated", interpolated)):
        if names:
            log.warning("%s: %d tensor(s) %s: %s%s", path, len(names), kind, ", ".join(names[:4]), " …" if len(names) > 4 else "")
    return LoadReport(str(path), sha256_file(path), missing, unexpected, dropped, tuple(interpolated))


def _examples(names: Iterable[str]) -> str:
    """One example name (the first) of each part of a model."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(name.split(".", 1)[0], name)
    return ", ".join(list(first.values())[:5]) + (", …" if len(first) > 5 else "")


def read_current(path: str | Path, names: Names, wanted: Collection[str] = ()) -> dict[str, Tensor]:
    """Like ``read_state_dict``, with every name turned into the model's by ``names``. A prefix before all of them is left out, if some
    names are ``wanted`` without it. Raises WeightsError when two tensors get the same name."""
    state: dict[str, Tensor] = {}
    older: dict[str, str] = {}
    given = read_state_dict(path)
    if start := foreign_start(given, wanted, names.current):
        log.warning("%s: its names are the model's behind '%s', which is left out", path, start)
    for name, tensor in given.items():
        new = names.current(name.removeprefix(start))
        if new in state:
            raise WeightsError(f"{path}: '{older[new]}' and '{name}' are both spellings of '{new}'")
        state[new], older[new] = tensor, name
    return state


def split_unused(state: dict[str, Tensor], names: Names, wanted: Iterable[str] = ()) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors that the model uses, and the names of those that the release carries without use. A ``wanted`` name always counts as
    used."""
    dropped = {name for name in state.keys() - set(wanted) if begins(name, names.unused)}
    return {name: tensor for name, tensor in state.items() if name not in dropped}, tuple(name for name in state if name in dropped)


def start_weights(checkpoint: str | None, pretrain_dir: str | None, step: int | None = None) -> Path | None:
    """The file that a run starts from: ``checkpoint``, else ``ckpt/model_step_N.pt`` of ``pretrain_dir``, of this ``step`` or the newest,
    else None. Raises WeightsError where it is not there."""
    if checkpoint:
        path = Path(checkpoint)
        if path.is_dir():
            raise WeightsError(f"run_cfg.checkpoint '{path}' is a folder: name a .pt or .safetensors file, or a run's folder with "
                               "--pretrain_dir")
        if not path.is_file():
            raise WeightsError(f"{_absent(path)} (run_cfg.checkpoint)")
        return path
    if not pretrain_dir:
        return None
    by_step = {int(match[1]): path for path in Path(pretrain_dir, "ckpt").glob("model_step_*.pt")
             if (match := re.fullmatch(r"model_step_(\d+)\.pt", path.name))}
    if not by_step:
        raise WeightsError(f"run_cfg.pretrain_dir '{pretrain_dir}'{looked_up(pretrain_dir)} holds no "
                           "ckpt/model_step_N.pt; name a folder that a training wrote")
    if step is not None and step not in by_step:
        raise WeightsError(f"run_cfg.pretrain_step is {step}, but {Path(pretrain_dir, 'ckpt')} has no model_step_{step}.pt; it has those "
                           f"of steps {', '.join(map(str, sorted(by_step)))}")
    return by_step[max(by_step) if step is None else step]


def load_tower(module: nn.Module, path: Path, file: TowerFile) -> None:
    """Load one tower from ``path``, laid out as ``file`` says. Anything that it does not account for is an error that names it."""
    if file.check is not None:
        content = _read(path)
        wrong = file.check(content["cfg"], module) if isinstance(content, dict) and isinstance(content.get("cfg"), dict) else []
        if wrong:
            raise WeightsError(f"{path}: its cfg is of another model: " + "; ".join(wrong))
    state = {}
    for whole, tensor in read_state_dict(path).items():
        name = whole.removeprefix(file.prefix)
        if not whole.startswith(file.prefix) or begins(name, file.dropped):
            continue
        start = max((old for old in file.rename if name.startswith(old)), key=len, default=None)
        state[name if start is None else file.rename[start] + name[len(start):]] = tensor
    if file.convert is not None:
        state = file.convert(state, module)
    wanted = module.state_dict()
    for name in [n for n in state if n in wanted and wanted[n].shape != state[n].shape]:
        fitted = _interpolate(name, state[name], wanted[name])
        if fitted is None:
            raise WeightsError(f"{path}: {name} has shape {tuple(state[name].shape)}, the model expects {tuple(wanted[name].shape)}")
        state[name] = fitted
    _refuse(path, "lacks", [n for n in wanted if n not in state and not any(part in n for part in file.optional)], list(state))
    _refuse(path, "has unknown", [n for n in state if n not in wanted], list(wanted))
    module.load_state_dict(state, strict=False)


def begins(name: str, starts: Iterable[str]) -> bool:
    """Whether the name begins as one of ``starts`` says; ``*`` stands for anything."""
    return any(fnmatchcase(name, f"{start}*") for start in starts)


def _refuse(path: str | Path, verb: str, names: list[str], others: Iterable[str]) -> None:
    for problem in _listed(verb, names, others):
        raise WeightsError(f"{path}: {problem}")


def _listed(verb: str, names: list[str], others: Iterable[str]) -> list[str]:
    """One sentence about ``names``, with the nearest of ``others``; none when there are no names."""
    if not names:
        return []
    near = difflib.get_close_matches(names[0], others, n=1, cutoff=0.8)
    return [f"the checkpoint {verb} {len(names)} tensor(s): {', '.join(names[:6])}{' …' if len(names) > 6 else ''}"
            + (f" (near: {near[0]})" if near else "")]


def _starts(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The shortest prefixes, made of whole parts of names, that cover ``names`` and none of ``others``; with ``*`` for numbers where that
    holds still."""
    others = list(others)
    taken = {other[:i + 1] for other in others for i, letter in enumerate(other) if letter == "."}
    starts: list[str] = []
    for name in names:
        if not begins(name, starts):
            parts = (name[:i + 1] for i, letter in enumerate(name) if letter == ".")
            start = next((part for part in parts if part not in taken), name)
            every = re.sub(r"\.\d+(?=\.)", ".*", start)
            starts.append(start if any(begins(other, [every]) for other in others) else every)
    return starts


def _interpolate(name: str, tensor: Tensor, target: Tensor) -> Tensor | None:
    """Frame embeddings (1, F, D) by nearest neighbour; position embeddings (1, N, D) or (N, D) of square grids bilinearly, a [CLS]
    before them kept; both as the release does. A scalar becomes that of every group (``temperature_per_group``). None: not of that
    kind."""
    if tensor.ndim == 0 and target.ndim == 1:
        return tensor.expand(target.shape)
    if tensor.ndim not in (2, 3) or tensor.ndim != target.ndim:
        return None
    if tensor.shape[-1] != target.shape[-1] or tensor.shape[:-2] != target.shape[:-2]:
        return None
    if name.endswith("frame_embedding"):
        return F.interpolate(tensor.float().transpose(1, 2), target.shape[1], mode="nearest").transpose(1, 2)
    if name.endswith(("pos_embed", "positional_embedding")):
        counts = tensor.shape[-2], target.shape[-2]
        for first in (0, 1):  # tokens before the grid
            old, new = (math.isqrt(count - first) for count in counts)
            if (old**2, new**2) == (counts[0] - first, counts[1] - first):
                grid = tensor[..., first:, :].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
                grid = F.interpolate(grid, (new, new), mode="bilinear").flatten(2).transpose(1, 2)
                return torch.cat([tensor[..., :first, :].float(), grid.reshape(*target.shape[:-2], new**2, -1)], -2)
    return None
