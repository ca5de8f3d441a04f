"""An optimiser's state in shards, through torch.distributed.checkpoint: each process writes its share, and any number can read them.

The shards of step N are the folder ``optimizer_step_N`` beside the pair of the checkpoint. It is written under a temporary name, synced
and renamed; sizes and SHA-256 of its files stand in ``state_step_N.pt``, so that ``latest.json`` commits them with the pair.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from omnivast.training.checkpoints.checkpoint import CheckpointError, FileMark, on_main
from omnivast.utils import distributed
from omnivast.utils.files import sha256_file, sync_folder

FILES = "files"
"""The key of an optimiser's saved state that lists the files of its shards."""
DESCRIBING = {
    "torch.distributed.checkpoint.metadata": {"Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata",
                                              "TensorProperties", "ChunkStorageMetadata", "StorageMeta", "_MEM_FORMAT_ENCODING"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"},
    "collections": {"OrderedDict"},
    **dict.fromkeys(("pathlib", "pathlib._local"), {"Path", "PosixPath", "WindowsPath"}),
}
"""Module → the names that unpickling a description of shards may import."""


def folder_of(step: int) -> str:
    return f"optimizer_step_{step}"


def is_sharded(optimizer: Mapping[str, Any]) -> bool:
    """Whether a saved state is in shards; otherwise it is a state dict as torch makes it."""
    return FILES in optimizer


def named_parameters(optimizer: Optimizer) -> dict[str, nn.Parameter]:
    """The parameters of an optimiser that was given their names."""
    return {name: p for group in optimizer.param_groups for name, p in zip(group["param_names"], group["params"])}


def write(folder: Path, step: int, optimizer: Optimizer) -> dict[str, Any]:
    """Write the shards of ``step`` into ``folder``; on every rank. Returns what ``read`` needs, in plain values: the "param_groups" and
    the marks of the "files". Raises CheckpointError on every rank when the disk of one refuses."""
    temporary, tensors = _prepared(folder, step, optimizer)
    try:
        dcp.save(tensors, storage_writer=FileSystemWriter(temporary, sync_files=True))
    except (CheckpointException, OSError) as error:
        raise _refused(folder, step, error) from error
    files = _marked(folder, step)
    on_main(lambda: _publish(folder, step))
    return {FILES: files, "param_groups": optimizer.state_dict()["param_groups"]}


def begin(folder: Path, step: int, optimizer: Optimizer, group: ProcessGroup) -> Callable[[], dict[str, Any]]:
    """Begin to ``write``: the shards are copied to host memory. The returned function does the rest and returns the same, in a thread of
    every rank, while the training goes on; ``group`` is of gloo, and for these threads alone."""
    temporary, tensors = _prepared(folder, step, optimizer)
    groups = copy.deepcopy(optimizer.state_dict()["param_groups"])
    writing: Any = dcp.async_save(tensors, storage_writer=FileSystemWriter(temporary, sync_files=True), process_group=group)

    def finish() -> dict[str, Any]:
        try:
            writing.result()
        except (CheckpointException, OSError) as error:
            raise _refused(folder, step, error) from error
        files = _marked(folder, step, group)
        if distributed.is_main():
            _publish(folder, step)
        return {FILES: files, "param_groups": groups}

    return finish


def _prepared(folder: Path, step: int, optimizer: Optimizer) -> tuple[Path, dict[str, Tensor]]:
    """The temporary folder to write to (it does not exist yet) and the tensors to write."""
    temporary = _temporary(folder, step)
    on_main(lambda: shutil.rmtree(temporary, ignore_errors=True))
    return temporary, {f"{name}.{key}": value for name, p in named_parameters(optimizer).items()
                       for key, value in optimizer.state.get(p, {}).items() if isinstance(value, Tensor)}


def _temporary(folder: Path, step: int) -> Path:
    return folder / f".{folder_of(step)}.tmp"


def _marked(folder: Path, step: int, group: ProcessGroup | None = None) -> list[dict[str, Any]]:
    """The marks of the files of all ranks. Raises CheckpointError on every rank when one of them cannot read back what it wrote."""
    temporary, marks, fault = _temporary(folder, step), [], None
    try:
        # Files are named __<rank>_<number>.distcp; the description is rank 0's.
        written = sorted(temporary.glob(f"__{distributed.rank()}_*"))
        marks = [_mark(path) for path in (*written, *([temporary / ".metadata"] if distributed.is_main() else []))]
    except OSError as error:
        fault = str(error)
    told = distributed.all_gather_objects((marks, fault), group)
    if faults := [fault for _, fault in told if fault]:
        raise _refused(folder, step, OSError(faults[0]))
    return [{**dataclasses.asdict(mark), "name": f"{folder_of(step)}/{mark.name}"} for part, _ in told for mark in part]


def _publish(folder: Path, step: int) -> None:
    """Rename the temporary folder of shards to its final name; for rank 0."""
    temporary, final = _temporary(folder, step), folder / folder_of(step)
    try:
        sync_folder(temporary)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(temporary, final)
        sync_folder(folder)
    except OSError as error:
        raise _refused(folder, step, error) from error


def read(folder: Path, step: int, saved: Mapping[str, Any], parameters: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """Read what ``write`` wrote, on every rank, as a state dict for an optimiser of ``parameters``; each tensor is whole or a shard, like
    its parameter.

    Raises CheckpointError when the shards cannot be read, ValueError when they belong to other parameters.
    """
    reader = _Reader(folder / folder_of(step))
    try:
        sizes = {key: entry for key, entry in reader.read_metadata().state_dict_metadata.items()
                 if isinstance(entry, TensorStorageMetadata)}
        targets: dict[str, Tensor] = {}
        for key, entry in sizes.items():
            name, _, kind = key.rpartition(".")
            if name not in parameters:
                raise ValueError(f"the optimiser was saved with a parameter '{name}', which is not trained now")
            targets[key] = _target(parameters[name], kind, entry)
        dcp.load(targets, storage_reader=reader)
    except (CheckpointException, OSError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(f"the optimiser in '{folder / folder_of(step)}' cannot be read ({_first_fault(error)})") from error
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in targets.items():
        name, _, kind = key.rpartition(".")
        state.setdefault(name, {})[kind] = tensor if kind == "step" else tensor.reshape(parameters[name].shape)
    return _by_number(state, saved)


def share(saved: Mapping[str, Any], parameters: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """This process's share of a state dict that is whole, as another engine saved it. Raises ValueError for other parameters."""
    names = _numbers(saved)
    state: dict[str, dict[str, Any]] = {}
    for number, values in saved["state"].items():
        if names[number] not in parameters:
            raise ValueError(f"the optimiser was saved with a parameter '{names[number]}', which is not trained now")
        parameter = parameters[names[number]]
        state[names[number]] = {key: value if key == "step" or not isinstance(value, Tensor) else share_of(value, parameter)
                                for key, value in values.items()}
    return _by_number(state, saved)


def share_of(whole: Tensor, like: Tensor) -> Tensor:
    """The part of ``whole`` that this process holds, placed as ``like`` is; all of it where ``like`` is no DTensor."""
    whole = whole.reshape(like.shape)
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device, like.dtype), like.device_mesh, like.placements, src_data_rank=None)


def _target(parameter: nn.Parameter, kind: str, entry: TensorStorageMetadata) -> Tensor:
    """An empty tensor that a saved one is read into."""
    if kind == "step" or not isinstance(parameter, DTensor):
        return torch.zeros(entry.size, dtype=entry.properties.dtype)
    if entry.size != parameter.shape:
        raise ValueError(f"the optimiser was saved with a parameter of shape {tuple(entry.size)} where it is {tuple(parameter.shape)} now")
    return torch.zeros_like(parameter, dtype=entry.properties.dtype)


def _numbers(saved: Mapping[str, Any]) -> dict[int, str]:
    """torch's number of each parameter → its name."""
    return {number: name for group in saved["param_groups"] for number, name in zip(group["params"], group["param_names"])}


def _by_number(state: Mapping[str, dict[str, Any]], saved: Mapping[str, Any]) -> dict[str, Any]:
    return {"state": {number: state[name] for number, name in _numbers(saved).items() if name in state},
            "param_groups": saved["param_groups"]}


def _mark(path: Path) -> FileMark:
    return FileMark(path.name, path.stat().st_size, sha256_file(path))


def _refused(folder: Path, step: int, error: BaseException) -> CheckpointError:
    return CheckpointError(f"the optimiser of step {step} could not be written to '{folder}' ({_first_fault(error)}); earlier checkpoints "
                           "are intact. Free the disk or make the folder writable, then continue with --resume true")


def _first_fault(error: BaseException) -> str:
    """The cause of a failure on any of the processes, in one line."""
    failures = getattr(error, "failures", None)
    cause = next(iter(failures.values()))[0] if failures else error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__


def _memory_format(kind: Any, name: str) -> Any:
    """The one use of getattr in a description of shards: Python 3.11.0 to 3.11.3 write the member of an enum by it."""
    if kind is not _MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError(f"it asks for '{name}' of something that is no memory format and was refused; nothing was run")
    return kind[name]


class _Describing(pickle.Unpickler):
    """An unpickler for descriptions of shards that refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        if name in DESCRIBING.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds more than descriptions of tensors ({module}.{name}) and was refused; nothing was run")


class _Reader(FileSystemReader):
    """torch's reader, with a safe way to read the description of the shards: torch would read it as a pickle that may run code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with open(Path(self.path) / ".metadata", "rb") as file:
            metadata = _Describing(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("it describes no shards")
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata
