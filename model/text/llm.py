"""The language model: any causal one of transformers, from a folder with safetensors or from a GGUF file, without code of its own."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omnivast.config.extras import is_installed, not_installed
from omnivast.config.paths import looked_up
from omnivast.config.schema import ModelConfig
from omnivast.config.words import did_you_mean
from omnivast.model.interface import ModelError
from omnivast.model.text.gguf import read_head

log = logging.getLogger("omnivast")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""Files of which a folder must have one."""
SAFE = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def check_llm(cfg: ModelConfig) -> None:
    """Find what is wrong with ``model_cfg.llm`` without reading its weights: a moment, before hours of work. Raises ModelError."""
    _source(cfg)


def load_llm(cfg: ModelConfig) -> tuple[nn.Module, Any]:
    """``model_cfg.llm`` with its weights, in float32 on the CPU and in evaluation mode, and its tokenizer.

    Raises:
        ModelError: there is no such folder or file; it lacks a tokenizer, or weights as safetensors; it is no causal language model, or of
            an architecture that transformers cannot read, or does without code of its own; tensors are missing.
    """
    from transformers import AutoModelForCausalLM
    source = _source(cfg)
    tokenizer = load_tokenizer(cfg)
    try:
        # Whatever is in the folder is data: no code of its own is run, nothing is unpickled, nothing is fetched.
        with _quiet():
            llm, info = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, use_safetensors=True, output_loading_info=True,
                                                             trust_remote_code=False, local_files_only=True, ignore_mismatched_sizes=True)
    except Exception as error:  # transformers and its readers raise what they like
        raise ModelError(f"model_cfg.llm '{cfg.llm}' cannot be loaded: {_first_line(error)}") from error
    wrong = sorted([*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])])
    if wrong:
        raise ModelError(f"model_cfg.llm '{cfg.llm}' lacks {len(wrong)} tensor(s) of a {type(llm).__name__} of its config.json, or has "
                         f"them in other sizes, {wrong[0]} first")
    _forget_the_file_format(llm)
    words = llm.get_input_embeddings().num_embeddings
    if len(tokenizer) > words:
        raise ModelError(f"model_cfg.llm '{cfg.llm}': the tokenizer has {len(tokenizer)} tokens, but the table of embeddings only {words} "
                         "rows; expected the tokenizer that the model was trained with")
    log.info("language model: %s of %.0f million parameters, %d tokens, from %s", type(llm).__name__,
             sum(p.numel() for p in llm.parameters()) / 1e6, words, cfg.llm)
    return llm.eval(), tokenizer


def load_tokenizer(cfg: ModelConfig) -> Any:
    """The tokenizer of ``model_cfg.llm``. Raises ModelError."""
    from transformers import AutoTokenizer
    source = _source(cfg)
    try:
        return AutoTokenizer.from_pretrained(**source, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # as above
        raise ModelError(f"model_cfg.llm '{cfg.llm}': its tokenizer cannot be loaded: {_first_line(error)}") from error


def context_of(llm: Any, cfg: ModelConfig) -> int:
    """How many tokens a conversation may have: ``llm_context``, or what the language model was made for. Raises ModelError for more."""
    made_for = getattr(llm.config, "max_position_embeddings", None)
    if cfg.llm_context is None:
        return made_for or 2048
    if made_for and cfg.llm_context > made_for:
        raise ModelError(f"model_cfg.llm_context is {cfg.llm_context}, but the language model was made for {made_for} tokens "
                         "(max_position_embeddings)")
    return cfg.llm_context


def _source(cfg: ModelConfig) -> dict[str, Any]:
    """What transformers is told to read, checked. Raises ModelError."""
    if cfg.llm is None:
        raise ModelError("model_cfg.llm is not set: the language model, a folder of transformers (config.json, safetensors, tokenizer) or "
                         "a .gguf file")
    path = Path(cfg.llm)
    if path.is_file() and path.suffix == ".gguf":
        _check_gguf(path)
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    if not path.is_dir():
        near = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ModelError(f"model_cfg.llm '{cfg.llm}': {'a file, but not .gguf' if path.is_file() else 'no such folder or file'}"
                         f"{looked_up(cfg.llm)}; expected a folder with config.json, safetensors and tokenizer, or a .gguf file; nothing "
                         f"is fetched.{did_you_mean(str(path), near)}")
    _check_folder(path)
    return {"pretrained_model_name_or_path": str(path)}


def _check_folder(path: Path) -> None:
    """Raises ModelError for a folder of another kind."""
    there = {other.name for other in path.iterdir()}
    if "config.json" not in there:
        files = [name for name in there if name.endswith(".gguf")]
        hint = f"; it holds {files[0]}: set model_cfg.llm to {path / files[0]}" if files else ""
        raise ModelError(f"model_cfg.llm '{path}' has no config.json, so it is no folder of transformers{hint}")
    if not there & set(TOKENIZERS):
        raise ModelError(f"model_cfg.llm '{path}' has no tokenizer: expected one of {', '.join(TOKENIZERS)} beside config.json")
    if not there & set(SAFE):
        pickled = "" if not there & set(PICKLED) else (f"; {', '.join(sorted(there & set(PICKLED)))} is a pickle, which can run "
                                                       "programs and is not read: save the model as safetensors")
        raise ModelError(f"model_cfg.llm '{path}' has no weights as safetensors: expected {' or '.join(SAFE)}{pickled}")
    try:
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
        kind, architectures = content.get("model_type"), content.get("architectures") or []
    except (ValueError, AttributeError, OSError) as error:
        raise ModelError(f"{path / 'config.json'} cannot be read: {_first_line(error)}") from error
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL  # noqa: N811, a long name
    if kind not in CAUSAL:
        own = " (it comes with code of its own, which is not run)" if content.get("auto_map") else ""
        raise ModelError(f"model_cfg.llm '{path}' is a '{kind}', which is no causal language model that transformers knows{own}; such are "
                         f"llama, qwen2, gemma3_text, mistral.{did_you_mean(str(kind), CAUSAL)}")
    names = CAUSAL[kind] if isinstance(CAUSAL[kind], (tuple, list)) else [CAUSAL[kind]]
    if architectures and not set(architectures) & set(names):
        raise ModelError(f"model_cfg.llm '{path}' holds a {architectures[0]}, which is no causal language model; expected {names[0]}")


def _check_gguf(path: Path) -> None:
    """Raises ModelError where the file is damaged, or of an architecture that transformers does not read."""
    if not is_installed("gguf"):
        raise ModelError(f"model_cfg.llm '{path}': {not_installed('gguf')}")
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES as READABLE  # noqa: N811, a long name
    try:
        head = read_head(path)
    except (ValueError, OSError) as error:
        raise ModelError(f"model_cfg.llm '{path}' is no GGUF file that can be read: {_first_line(error)}") from error
    architecture = head.get("general.architecture")
    if architecture not in READABLE:
        raise ModelError(f"model_cfg.llm '{path}': transformers does not read GGUF files of architecture '{architecture}'; it reads "
                         f"{', '.join(sorted(READABLE))}.{did_you_mean(str(architecture), READABLE)}")
    if "tokenizer.ggml.model" not in head:
        raise ModelError(f"model_cfg.llm '{path}' has no tokenizer (tokenizer.ggml.model)")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and its table of tensors that do not fit, which is one sentence here."""
    from transformers.utils import logging as theirs
    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


def _forget_the_file_format(llm: Any) -> None:
    """A GGUF file's weights are plain float32 once read, but the model would go on saying that it is quantised."""
    if getattr(llm.config, "quantization_config", None) is not None:
        del llm.config.quantization_config
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if name in vars(llm):
            delattr(llm, name)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
