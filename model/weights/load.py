"""State dicts from disk into a model, with a strict report of what did not fit."""

from __future__ import annotations

import difflib
import logging
import pickle
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.weights.released import DROPPED, RENAMED
from utils.files import sha256_file

log = logging.getLogger("omnivast")


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
    """Tensors by name from a ``.safetensors`` or a torch file, whatever its extension; {"model": …} and the like are unwrapped.

    Raises WeightsError when the file is absent, broken, or a pickle that holds anything but tensors and plain values
    (which is refused, not executed).
    """
    path = Path(path)
    if not path.is_file():
        neighbours = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, neighbours, n=1, cutoff=0.4)
        raise WeightsError(f"no weights at {path}" + (f"; that folder has '{near[0]}'" if near else ""))
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, str(error))) from None
    except (RuntimeError, EOFError, OSError, ValueError, SafetensorError, zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint (truncated, or another format): "
                           + (str(error).splitlines() or ["it ends too early"])[0]) from None
    for key in ("model", "state_dict", "module"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path}: expected a state dict (names with tensors), found {type(content).__name__}")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _refusal(path: Path, reason: str) -> str:
    """Why a file that torch would not unpickle is refused; torch's own words advise to unpickle it after all."""
    with open(path, "rb") as file:
        head = file.read(12)
    if not head.startswith((b"PK", b"\x80")):
        return f"{path}: not a readable checkpoint: neither a torch file nor safetensors (it begins with {head!r})"
    name = re.search(r"GLOBAL:? ([\w.]+)", reason)
    return (f"{path}: refused, because it holds more than tensors and plain values{f' ({name[1]})' if name else ''} and could run code "
            "when read. Save it again with torch.save(model.state_dict(), …) or as safetensors")


def load_weights(model: nn.Module, path: str | Path, allow_missing: Sequence[str] = ()) -> LoadReport:
    """Load a whole model's checkpoint, ours or the release's.

    Frame and position embeddings of other lengths are interpolated. A tensor missing or in excess is an error unless its
    name begins with one of ``allow_missing``; tensors that the release carries without use are dropped by name.
    """
    state = read_state_dict(path)
    dropped = tuple(name for name in state if any(name.startswith(prefix) for prefix in DROPPED))
    state = {_renamed(name): tensor for name, tensor in state.items() if name not in dropped}
    own = model.state_dict()
    interpolated, wrong = [], []
    for name, tensor in state.items():
        if name in own and own[name].shape != tensor.shape:
            fitted = _interpolate(name, tensor, own[name])
            if fitted is None:
                wrong.append(f"{name}: file {tuple(tensor.shape)}, model {tuple(own[name].shape)}")
            else:
                state[name] = fitted
                interpolated.append(name)
    allowed = tuple(allow_missing)
    wrong = [line for line in wrong if not line.startswith(allowed)] if allowed else wrong
    if wrong:
        raise WeightsError(f"{path}: {len(wrong)} tensor(s) have another shape; was the checkpoint made with other sizes in model_cfg?\n  "
                           + "\n  ".join(wrong[:8]) + ("\n  …" if len(wrong) > 8 else ""))
    state = {name: tensor for name, tensor in state.items() if name not in own or own[name].shape == tensor.shape}
    missing = tuple(name for name in own if name not in state)
    unexpected = tuple(name for name in state if name not in own)
    _refuse(path, "lacks", [n for n in missing if not (allowed and n.startswith(allowed))], list(state))
    _refuse(path, "has unknown", [n for n in unexpected if not (allowed and n.startswith(allowed))], list(own))
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in own}, strict=False)
    for kind, names in (("missing, left as initialised", missing), ("unknown, left unread", unexpected), ("interpolated", interpolated)):
        if names:
            log.warning("%s: %d tensor(s) %s: %s%s", path, len(names), kind, ", ".join(names[:4]), " …" if len(names) > 4 else "")
    return LoadReport(str(path), sha256_file(path), missing, unexpected, dropped, tuple(interpolated))


def start_weights(checkpoint: str | None, pretrain_dir: str | None) -> Path | None:
    """The file that a run starts from: ``checkpoint``, else the newest ``ckpt/model_step_N.pt`` of ``pretrain_dir``, else None."""
    if checkpoint:
        if not Path(checkpoint).is_file():
            raise WeightsError(f"no weights at {checkpoint} (run_cfg.checkpoint)")
        return Path(checkpoint)
    if not pretrain_dir:
        return None
    found = {int(match[1]): path for path in Path(pretrain_dir, "ckpt").glob("model_step_*.pt")
             if (match := re.fullmatch(r"model_step_(\d+)\.pt", path.name))}
    if not found:
        raise WeightsError(f"run_cfg.pretrain_dir '{pretrain_dir}' holds no ckpt/model_step_N.pt; name a folder that a training wrote")
    return found[max(found)]


def load_tower(module: nn.Module, path: Path, rename: dict[str, str], dropped: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Load one tower from its own released file: ``rename`` maps the starts of names (the longest match wins), ``dropped`` lists
    starts of names left out, ``optional`` the parts of names that the file may lack. Anything else unmatched is an error."""
    state = {}
    for name, tensor in read_state_dict(path).items():
        start = max((old for old in rename if name.startswith(old)), key=len, default=None)
        new = name if start is None else rename[start] + name[len(start):]
        if not name.startswith(tuple(dropped)):
            state[new] = tensor
    own = module.state_dict()
    for name in [n for n in state if n in own and own[n].shape != state[n].shape]:
        fitted = _interpolate(name, state[name], own[name])
        if fitted is None:
            raise WeightsError(f"{path}: {name} has shape {tuple(state[name].shape)}, the model expects {tuple(own[name].shape)}")
        state[name] = fitted
    _refuse(path, "lacks", [n for n in own if n not in state and not any(part in n for part in optional)], list(state))
    _refuse(path, "has unknown", [n for n in state if n not in own], list(own))
    module.load_state_dict(state, strict=False)


def _renamed(name: str) -> str:
    for old, new in RENAMED.items():
        if name.startswith(old):
            return new + name[len(old):]
    return name


def _refuse(path: str | Path, verb: str, names: list[str], others: list[str]) -> None:
    if not names:
        return
    near = difflib.get_close_matches(names[0], others, n=1, cutoff=0.8)
    hint = f" (near: {near[0]})" if near else ""
    listed = ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
    raise WeightsError(f"{path}: the checkpoint {verb} {len(names)} tensor(s): {listed}{hint}. "
                       "If that is intended, list the starts of their names in run_cfg.allow_missing")


def _interpolate(name: str, tensor: Tensor, own: Tensor) -> Tensor | None:
    """Frame embeddings by nearest neighbour, square position embeddings (with [CLS]) bicubically; None: not of that kind."""
    if tensor.ndim != 3 or own.ndim != 3 or tensor.shape[2] != own.shape[2]:
        return None
    if name.endswith("frame_embedding"):
        return F.interpolate(tensor.float().transpose(1, 2), own.shape[1], mode="nearest").transpose(1, 2)
    if name.endswith("pos_embed"):
        old, new = (tensor.shape[1] - 1) ** 0.5, (own.shape[1] - 1) ** 0.5
        if old != int(old) or new != int(new):
            return None
        grid = tensor[:, 1:].float().transpose(1, 2).unflatten(2, (int(old), int(old)))
        grid = F.interpolate(grid, (int(new), int(new)), mode="bicubic", align_corners=False)
        return torch.cat([tensor[:, :1].float(), grid.flatten(2).transpose(1, 2)], 1)
    return None
