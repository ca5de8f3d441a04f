"""What memory each GPU needs to train an Audio-Visual LLM at the paper's size, without a GPU, weights or memory: counted on tensors that
have shapes alone, as one of several processes under FSDP (training/estimate_sharded.py).

    python -m omnivast.scripts.avllm.memory config/avllm/finetune_cfg/stage2.json --processes 8 --clips 16

The language model has the shape of Vicuna-7B (or --llm 13b), whatever the config names, and the audio tower that of CLAP.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivast.config.conversation import answering
from omnivast.config.load import load_config
from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Modality, Task
from omnivast.data.batch import Batch, Chats
from omnivast.model.avllm.model import AudioVisualLLM
from omnivast.model.avllm.template import MEDIA
from omnivast.training.estimate_sharded import share_of_each

SHAPES = {"7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
          "13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}}
CLAP = {"model_type": "clap_audio_model"}
"""All of CLAP's sizes are the library's defaults."""
TASK = Task.parse("chat%tva")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="of a stage")
    parser.add_argument("--processes", type=int, default=8, help="GPUs (default 8)")
    parser.add_argument("--clips", type=int, default=16, help="of each GPU (default 16)")
    parser.add_argument("--frames", type=int, default=32, help="of a clip (default 32)")
    parser.add_argument("--slices", type=int, default=4, help="of sound (default 4)")
    parser.add_argument("--words", type=int, default=256, help="tokens of a conversation beside its media; half are learnt (default 256)")
    parser.add_argument("--llm", choices=SHAPES, default="7b", help="the shape of Vicuna-7B or -13B (default 7b)")
    parser.add_argument("--json", action="store_true", help="bytes, for programs")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:  # configs are read only where there is a language model
        llama(SHAPES[options.llm]).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        Path(folder, "model.safetensors").touch()
        config = load_config(["--config", options.config, "--llm", folder])
    model = on_meta(dataclasses.replace(config.model_cfg, audio_encoder_cfg=CLAP), SHAPES[options.llm])
    batch = clips(model, options.frames, options.slices, options.words)
    sizes = share_of_each(model, batch, TASK, config.run_cfg, options.clips, options.processes)
    if options.json:
        sys.stdout.write(json.dumps(sizes) + "\n")
    else:
        sys.stdout.write("".join(f"{name:<24}{size / 1e9:8.2f} GB\n" for name, size in sizes.items()))
    return 0


def on_meta(cfg: ModelConfig, shape: dict[str, int]) -> AudioVisualLLM:
    """The model with a Llama of this shape, and shapes alone."""
    from transformers import LlamaForCausalLM
    with torch.device("meta"):
        return AudioVisualLLM(cfg, LlamaForCausalLM(llama(shape)), byte_tokenizer())


def llama(shape: dict[str, int]) -> Any:
    """transformers' config of a Llama with Vicuna's vocabulary."""
    from transformers import LlamaConfig
    return LlamaConfig(**{"vocab_size": 32_000, "max_position_embeddings": 4096, **shape})


def clips(model: AudioVisualLLM, frames: int, slices: int, words: int) -> Batch:
    """Two clips, each with a conversation of ``words`` tokens about all that is seen and heard."""
    def empty(*shape: int, dtype: Any = torch.float32) -> Tensor:
        return torch.empty(2, *shape, dtype=dtype, device="meta")

    cfg = model.config
    learnt = words // 2
    chats = Chats([answering(["?"], ["!"], (Modality.VISION, Modality.AUDIO))] * 2, torch.arange(2),
                  ids=[[MEDIA, *[1] * words]] * 2, supervised=[[False] * (1 + words - learnt) + [True] * learnt] * 2)
    seen = empty(frames, 3, cfg.vision_resolution, cfg.vision_resolution, dtype=torch.uint8)
    heard = empty(slices, cfg.audio_target_length, cfg.audio_melbins)
    made = Batch("clips", ["one", "other"], torch.arange(2), seen, heard, chats=chats)
    made.present = {modality: torch.ones(2, dtype=torch.bool) for modality in (Modality.VISION, Modality.AUDIO)}
    return made


def byte_tokenizer() -> Any:
    """A tokenizer of bytes, since none is needed but to make the model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    letters = {letter: number + 3 for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    spelling = Tokenizer(models.BPE(vocab={"<unk>": 0, "<s>": 1, "</s>": 2, **letters}, merges=[]))
    spelling.pre_tokenizer, spelling.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=spelling, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


if __name__ == "__main__":
    sys.exit(main())
