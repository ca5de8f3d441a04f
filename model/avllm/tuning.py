"""What of the language model is trained: nothing, LoRA's adapters (Hu et al., 2021; by peft), or all of it.

Adapters are put into the language model, not around it: its parameters keep their names, but for ``base_layer`` in those of adapted
layers, and ``lora_A`` and ``lora_B`` beside it.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from omnivast.config.extras import import_extra
from omnivast.config.schema import ModelConfig
from omnivast.config.words import did_you_mean
from omnivast.model.interface import ModelError
from omnivast.utils.files import write_atomically

log = logging.getLogger("omnivast")
PEFT_PREFIX = "base_model.model."
"""What peft writes before the names of a model's tensors in an adapter's file."""


def tuned(llm: nn.Module, cfg: ModelConfig) -> nn.Module:
    """``llm`` itself, its parameters set to be trained or not as ``llm_tune`` says.

    projectors: none is trained. lora: only adapters beside linear layers are; ``B`` is 0, so that at first nothing has changed. full: all
    are, the table of embeddings too, which is also the word head where the two are tied.

    Raises:
        ModelError: peft is not installed, or a target matches no linear layer.
    """
    llm.requires_grad_(cfg.llm_tune == "full")
    if cfg.llm_tune == "lora":
        _import_peft().inject_adapter_in_model(lora_config(llm, cfg), llm)
        for name, parameter in llm.named_parameters():
            parameter.requires_grad_("lora_" in name)
    return llm


def lora_config(llm: nn.Module, cfg: ModelConfig) -> Any:
    """peft's ``LoraConfig`` of the settings ``llm_lora_…``. Raises ModelError for a target that matches nothing."""
    return _import_peft().LoraConfig(r=cfg.llm_lora_rank, lora_alpha=cfg.llm_lora_alpha, lora_dropout=cfg.llm_lora_dropout,
                                     target_modules=targets(llm, cfg.llm_lora_targets), task_type="CAUSAL_LM",
                                     base_model_name_or_path=cfg.llm)


def targets(llm: Any, wanted: Sequence[str]) -> list[str]:
    """The ends of names of the linear layers that get an adapter: those wanted, or of all but the word head.

    Raises ModelError for one that matches none, with those there are.
    """
    head = llm.get_output_embeddings()
    linears = [name for name, module in llm.named_modules() if type(module).__name__ in ("Linear", "Conv1D") and module is not head]
    ends = sorted({name.rsplit(".", 1)[-1] for name in linears})
    for target in wanted:
        if not any(name == target or name.endswith(f".{target}") for name in linears):
            raise ModelError(f"model_cfg.llm_lora_targets: '{target}' matches no linear layer of the language model; there are "
                             f"{', '.join(ends)}.{did_you_mean(target, ends)}")
    return sorted(set(wanted)) or ends


def has_adapter(llm: nn.Module) -> bool:
    """Whether LoRA's adapters are in it."""
    return any("lora_" in name for name, _ in llm.named_parameters())


def adapter_state(llm: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors alone, by the names of peft's files. Raises ModelError where there is none."""
    if not has_adapter(llm):
        raise ModelError("the language model has no adapter: it was not trained with model_cfg.llm_tune lora")
    own = _import_peft().get_peft_model_state_dict(llm)
    return {PEFT_PREFIX + name: tensor for name, tensor in own.items()}


def load_adapter_state(llm: nn.Module, state: dict[str, Tensor]) -> None:
    """Put an adapter's tensors, by peft's names, into a language model that was made with one of the same kind. Raises ModelError."""
    expected = {name: tensor.shape for name, tensor in adapter_state(llm).items()}
    found = {name: tensor.shape for name, tensor in state.items()}
    if found != expected:
        name = next(name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name))
        sizes = ["absent" if name not in own else str(tuple(own[name])) for own in (found, expected)]
        raise ModelError(f"the adapter does not fit the language model and model_cfg.llm_lora_…: {name} is {sizes[0]}, expected {sizes[1]}")
    _import_peft().set_peft_model_state_dict(llm, {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in state.items()})


def save_adapter(llm: Any, folder: str | Path) -> Path:
    """Write the adapter as peft does: ``adapter_config.json`` and ``adapter_model.safetensors``, which ``PeftModel.from_pretrained`` of
    peft, or other programs, load beside the same language model. Raises ModelError where there is none."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_state(llm).items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.copy(next(iter(llm.peft_config.values())))
    config.inference_mode = True
    with tempfile.TemporaryDirectory() as written:
        config.save_pretrained(written)
        write_atomically(folder / "adapter_config.json", Path(written, "adapter_config.json").read_bytes())
    write_atomically(folder / "adapter_model.safetensors", save(state, metadata={"format": "pt"}))
    log.info("wrote the adapter to %s: %d tensors", folder, len(state))
    return folder


def merged(llm: nn.Module) -> nn.Module:
    """``llm`` itself, the adapters added to the weights of their layers and gone; it computes what it did. Without any, unchanged."""
    from peft.tuners.lora import LoraLayer
    for name, module in [(name, module) for name, module in llm.named_modules() if isinstance(module, LoraLayer)]:
        module.merge(safe_merge=True)
        llm.set_submodule(name, module.get_base_layer())
    if hasattr(llm, "peft_config"):
        del llm.peft_config
    return llm


def save_merged(llm: Any, tokenizer: Any, folder: str | Path) -> Path:
    """Write a copy of the language model with the adapter in its weights, and its tokenizer, as a folder of transformers, which
    ``model_cfg.llm`` may also name. ``llm`` itself stays as it is."""
    plain: Any = merged(copy.deepcopy(llm))
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    log.info("wrote the language model to %s", folder)
    return Path(folder)


def _import_peft() -> Any:
    try:
        return import_extra("peft")
    except ImportError as error:
        raise ModelError(f"model_cfg.llm_tune lora: {error}") from None
