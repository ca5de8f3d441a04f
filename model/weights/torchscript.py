"""Tensors out of a TorchScript archive, as which OpenAI's CLIP is published; none of its code is loaded.

The archive is a zip: ``data.pkl`` describes the module tree, ``data/N`` holds the N-th storage's bytes, ``code/`` the program.
"""

from __future__ import annotations

import collections
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class _Module:
    """Stands in for any class of the archive's program: keeps the attributes, runs nothing."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Reader(pickle.Unpickler):
    """Knows tensors, ordered dicts and the program's modules; anything else is refused."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name.endswith("Storage"):
            return name
        if module == "torch.jit._pickle":
            return lambda values, *_: values
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        _, kind, key, *_ = pid
        types = {"FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
                 "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32, "BoolStorage": torch.bool}
        if kind not in types:
            raise pickle.UnpicklingError(f"GLOBAL torch.{kind}")
        return torch.frombuffer(bytearray(self.archive.read(f"{self.root}data/{key}")), dtype=types[kind])


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive rather than a plain torch file."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of the archive's module, by name. Raises pickle.UnpicklingError for anything but tensors and modules."""
    with zipfile.ZipFile(path) as archive:
        roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
        if not roots:
            raise zipfile.BadZipFile("a TorchScript archive without data.pkl")
        return dict(_tensors(_Reader(archive, roots[0]).load(), ""))


def _tensors(module: Any, prefix: str) -> list[tuple[str, Tensor]]:
    tensors: list[tuple[str, Tensor]] = []
    for name, value in getattr(module, "attributes", {}).items():
        if isinstance(value, Tensor):
            tensors.append((prefix + name, value))
        elif isinstance(value, _Module):
            tensors += _tensors(value, f"{prefix}{name}.")
    return tensors
