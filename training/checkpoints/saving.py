"""When a training saves, which checkpoints it keeps, and how it saves in the background while the next steps run."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from omnivast.config.schema import RunConfig
from omnivast.training.checkpoints import checkpoint
from omnivast.utils import distributed

logger = logging.getLogger("omnivast")


def newest_kept(run: RunConfig) -> int | None:
    """How many of the newest checkpoints are kept; None: all."""
    return run.keep_last or (1 if run.remove_before_ckpt else None)


def best_kept(run: RunConfig) -> int:
    """How many of the best models are kept."""
    return run.keep_best or int(run.save_best)


class Saver:
    """The saves of one training. Every method is called on every rank; rank 0 copies and writes.

    In the background (``run_cfg.async_save``) a save holds up the training only for a copy to host memory. A thread then serialises,
    hashes, writes, syncs and commits it; with a sharded optimiser, every rank has a thread that writes its shard. At most one save is in
    flight. If it fails, ``failed`` says so on rank 0, and ``wait`` raises the error on every rank.

    To be used in a ``with`` statement; where that is left for an error, the save in flight ends first.
    """

    def __init__(self, folder: Path, run: RunConfig, sync_logs: Callable[[], None]) -> None:
        """``sync_logs`` makes durable what a checkpoint counts on; it is called, perhaps in the thread, before the commit."""
        self.folder, self.sync_logs = folder, sync_logs
        self.keep, self.background, self.interval = newest_kept(run), run.async_save, 60 * run.save_minutes
        self.last = time.monotonic()
        self.copies = HostCopies()
        self.thread: threading.Thread | None = None
        self.failure: Exception | None = None
        self.slow = False

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.thread is not None:
            self.thread.join()
        if self.failure is not None:
            logger.error("%s", self.failure)

    def due(self) -> bool:
        """Whether save_minutes have passed since the last save. Clocks differ: rank 0's answer counts."""
        return self.interval > 0 and time.monotonic() - self.last >= self.interval

    @property
    def failed(self) -> bool:
        """Whether the save in the background has failed; known to rank 0 at least, which tells the others."""
        return self.failure is not None

    def save(self, step: int, content: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]]) -> None:
        """Save ``step``, or begin to save it in the background.

        ``content`` is called when the save before is done. It returns the model's state dict and all else; its "optimizer" may be a
        function that writes the state, which the background threads call. Raises CheckpointError, in the background also the one of the
        save before.
        """
        if self.thread is not None and self.thread.is_alive() and not self.slow:
            self.slow = True
            logger.warning("the training waits at step %d because the save before is still being written: save less often", step)
        self.wait()
        model, state = content()
        if not self.background:
            checkpoint.on_main(lambda: self._write(step, model, state))
        elif distributed.is_main() or callable(state["optimizer"]):
            content_now = self.copies.take((model, state)) if distributed.is_main() else (model, state)
            self.thread = threading.Thread(target=self._try_to_write, args=(step, *content_now), name=f"save of step {step}", daemon=True)
            self.thread.start()
        self.last = time.monotonic()

    def wait(self) -> None:
        """Wait until the save in flight, if there is one, is committed. Raises its CheckpointError on every rank."""
        if not self.background:
            return
        if self.thread is not None:
            self.thread.join()
        self.thread, failure, self.failure = None, self.failure, None

        def tell() -> None:
            if failure is not None:
                raise failure

        checkpoint.on_main(tell)
        tell()

    def _write(self, step: int, model: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.sync_logs()
        checkpoint.save(self.folder, step, model, state, keep=self.keep)

    def _try_to_write(self, step: int, model: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Runs in the background thread."""
        try:
            if callable(state["optimizer"]):
                state["optimizer"] = state["optimizer"]()
            if distributed.is_main():
                self._write(step, model, state)
        except Exception as error:
            self.failure = error


class HostCopies:
    """Copies nested state into host memory that is allocated once and used again; page-locked for tensors on a GPU."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[int, bool], list[Tensor]] = {}
        """Free buffers by (size in bytes, whether page-locked)."""
        self.used: Counter[tuple[int, bool]] = Counter()
        self.copied: dict[tuple[torch.device, int], torch.UntypedStorage] = {}
        """The copy of each storage, by the device and address of the original."""

    def take(self, state: Any) -> Any:
        """A copy of dicts, lists, tuples and tensors (other values are shared), done when this returns.

        Tensors that share memory share it in the copy, so that a file of it is the same to the byte. What was taken before is
        overwritten.
        """
        self.used.clear()
        result = self._copy(state)
        for device in {device for device, _ in self.copied if device.type == "cuda"}:
            torch.cuda.current_stream(device).synchronize()
        self.copied.clear()
        return result

    def _copy(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            result = copy.copy(value)  # with what state_dict() hangs on its dict
            for key, inner in value.items():
                result[key] = self._copy(inner)
            return result
        if isinstance(value, (list, tuple)):
            return type(value)(self._copy(inner) for inner in value)
        return value

    def _tensor(self, tensor: Tensor) -> Tensor:
        source = tensor.untyped_storage()
        if not source.nbytes():
            return tensor.cpu()
        address = (tensor.device, source.data_ptr())
        if address not in self.copied:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(source)
            self.copied[address] = self._buffer(source.nbytes(), tensor.is_cuda).copy_(whole, non_blocking=True).untyped_storage()
        return torch.empty(0, dtype=tensor.dtype).set_(self.copied[address], tensor.storage_offset(), tensor.size(), tensor.stride())

    def _buffer(self, size: int, pinned: bool) -> Tensor:
        """A buffer of ``size`` bytes that this copy does not use yet."""
        buffers, number = self.buffers.setdefault((size, pinned), []), self.used[size, pinned]
        self.used[size, pinned] += 1
        if number == len(buffers):
            buffers.append(torch.empty(size, dtype=torch.uint8, pin_memory=pinned))
        return buffers[number]
