"""A checkpoint that leaves out the frozen language model says which one it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from omnivast.model.interface import ModelError

LOOKED_AT = 1024
"""Numbers of each tensor that the mark is made of: reading all of a language model would take minutes, and training changes nearly all."""


class LanguageModelMark(nn.Module):
    """A hash of the language model that a model was built with. It is saved, and compared with what a checkpoint has."""

    mark: Tensor

    def __init__(self, llm: nn.Module) -> None:
        """``llm``: as its file has it, before anything is added to it."""
        super().__init__()
        self.register_buffer("mark", torch.tensor(list(fingerprint(llm)), dtype=torch.uint8))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Raises ModelError for the checkpoint of another language model."""
        given = state_dict.get(f"{prefix}mark")
        if isinstance(given, Tensor) and given.tolist() != self.mark.tolist():
            raise ModelError("the checkpoint was trained with another language model than model_cfg.llm: its projectors, and adapters, are "
                             f"of no use to this one (marks {_hex(given)}, {_hex(self.mark)})")
        super()._load_from_state_dict(state_dict, prefix, *args)


def leave_out_frozen(model: nn.Module, start: str) -> None:
    """Leave the parameters that are not trained, and whose names begin with ``start``, out of the model's state dict, and do not ask for
    them when one is loaded: they come from a file of their own."""
    frozen = {name for name, parameter in model.named_parameters() if name.startswith(start) and not parameter.requires_grad}

    def drop(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for name in frozen:
            state.pop(prefix + name, None)

    def forgive(module: nn.Module, keys: Any) -> None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if name not in frozen]

    model.register_state_dict_post_hook(drop)
    model.register_load_state_dict_post_hook(forgive)


def fingerprint(module: nn.Module) -> bytes:
    """Which weights a module has: 16 bytes. Of one on the device "meta", which has none, which shapes."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // LOOKED_AT)
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        if not tensor.is_meta:
            digest.update(flat[::step].to(torch.float32).cpu().contiguous().numpy().tobytes())
    return digest.digest()[:16]


def _hex(mark: Tensor) -> str:
    return bytes(mark.tolist()).hex()[:12]
