"""Where the pretrained file of each tower lies under ``pretrained_weights/``, where it comes from, and how its tensors become the tower's.

The names of tensors here are those of the module's state dict, which for the released towers are the names of the release.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import timm
from torch import Tensor, nn

Convert = Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]

WEIGHTS = Path("pretrained_weights")
"""Where the files lie."""


@dataclass(frozen=True)
class TowerFile:
    """One pretrained file and its layout.

    path: under ``pretrained_weights/``, or absolute; url: None when it must be fetched by hand, for which ``by_hand`` says how;
    size: bytes, sha256: of the file, both None where they are not known for certain.
    The tensors whose names begin with ``prefix`` are the tower's. Without it, names that begin as ``dropped`` says are left out
    (``*`` stands for anything), ``rename`` maps the starts of names (the longest match wins), ``convert(state, module)``
    does what renaming cannot, and ``optional`` lists parts of the names that the file may lack.
    ``check(cfg, module)`` names what the "cfg" in the file says otherwise than the module. ``beside``: files of the same folder and
    source that are needed with it.
    """

    path: str
    url: str | None
    by_hand: str
    size: int | None = None
    sha256: str | None = None
    prefix: str = ""
    rename: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    convert: Convert | None = None
    check: Callable[[Mapping[str, Any], nn.Module], list[str]] | None = None
    beside: tuple[str, ...] = ()

    @property
    def place(self) -> Path:
        """Where the file is read, or would be if it were there. A folder in Hugging Face layout may hold other files than
        ``model.safetensors``."""
        path = WEIGHTS / self.path
        if path.name != HUGGING_FACE[0]:
            return path
        return next((other for other in map(path.with_name, HUGGING_FACE) if other.is_file()), path)


HUGGING_FACE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Weights of a folder in Hugging Face layout, best first; an index lists the parts of a model in several files."""


def tower_file(name: str) -> TowerFile | None:
    """The file of an encoder: a released name, ``timm:…``, ``open_clip:…`` or ``hf:…``; None for a tower that has none."""
    family, _, rest = name.partition(":")
    if rest:
        return _FAMILIES[family](rest) if family in _FAMILIES else None
    return TOWER_FILES.get(name)


def _timm(name: str) -> TowerFile:
    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    repository = known.hf_hub_id if known else None
    url = f"https://huggingface.co/{repository}/resolve/main/model.safetensors" if repository else None
    return TowerFile(f"timm/{name}.safetensors", url, "timm's weights of that name, saved as safetensors"
                     + (f": model.safetensors of huggingface.co/{repository}" if repository else ""),
                     rename={"": "body."}, convert=_as_timm_reads)


def _as_timm_reads(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """What timm does to a file before it reads it: older layouts, position embeddings of other grids; and the heads left out."""
    body = module.get_submodule("body")
    state = {name.removeprefix("body."): tensor for name, tensor in state.items()}
    as_timm = getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None)
    if as_timm is not None:
        state = as_timm(state, body)
    return _without_heads({f"body.{name}": tensor for name, tensor in state.items()}, module)


def _without_heads(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    heads = cast(Sequence[str], module.heads)
    return {name: tensor for name, tensor in state.items() if not f"{name}.".startswith(tuple(f"{head}." for head in heads))}


def _open_clip(name: str) -> TowerFile:
    model, _, tag = name.partition(":")
    url = None
    if tag:
        try:
            import open_clip
            repository = open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "").strip("/")
        except ImportError:
            repository = ""
        url = f"https://huggingface.co/{repository}/resolve/main/open_clip_model.safetensors" if repository else None
    return TowerFile(f"open_clip/{name.replace('/', '-').replace(':', '.')}.safetensors", url,
                     "open_clip_model.safetensors of the model's repository on huggingface.co, which open_clip.get_pretrained_cfg names",
                     prefix="visual.", rename={"": "visual.", "trunk.": "body."}, convert=_without_heads)


def _hugging_face(name: str) -> TowerFile:
    if Path(name).is_dir():
        return TowerFile(str(Path(name, "model.safetensors").absolute()), None, "the folder holds config.json and model.safetensors",
                         optional=_COUNTED, convert=_as_the_tower_reads)
    return TowerFile(f"hf/{name}/model.safetensors", f"https://huggingface.co/{name}/resolve/main/model.safetensors",
                     f"config.json, preprocessor_config.json and model.safetensors of huggingface.co/{name}",
                     optional=_COUNTED, convert=_as_the_tower_reads, beside=("config.json", "preprocessor_config.json"))


_COUNTED = ("relative_position_index", "num_batches_tracked")


def _as_the_tower_reads(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    return cast(Any, module).from_file(state)


def _beats(name: str) -> TowerFile:
    """Chen et al., BEATs; MIT licence. A fine-tuned file has a classifier, ``predictor``, besides."""
    return TowerFile(f"beats/{name}.pt", None, f"{name} from the table of github.com/microsoft/unilm/tree/master/beats (OneDrive)",
                     dropped=("predictor.", "mask_emb"), optional=("relative_attention_bias",),
                     check=lambda cfg, module: cast(Any, module).check_file(cfg))


def text_file(folder: str) -> TowerFile:
    """The weights of a BERT: a folder in Hugging Face layout, or a name of huggingface.co."""
    repository = folder if "/" in folder else f"google-bert/{folder}"
    direct = Path(folder).is_dir()
    return TowerFile(str(Path(folder, "model.safetensors").absolute()) if direct else f"bert/{folder}/model.safetensors",
                     None if direct else f"https://huggingface.co/{repository}/resolve/main/model.safetensors",
                     f"config.json, vocab.txt and model.safetensors of huggingface.co/{repository}",
                     rename={"": "bert.", "bert.": "bert.", "cls.": "cls."}, dropped=("bert.pooler.", "pooler.", "cls.seq_relationship.",
                                                                             "bert.embeddings.position_ids", "embeddings.position_ids"),
                     optional=("crossattention", "cls.predictions", "position_ids", "prompt_embedding"), convert=_bert_norms,
                     beside=("config.json", "vocab.txt", "tokenizer_config.json"))


def _bert_norms(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The first BERTs call LayerNorm's weight gamma and its bias beta."""
    return {name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): tensor
            for name, tensor in state.items()}


_FAMILIES: dict[str, Callable[[str], TowerFile]] = {"timm": _timm, "open_clip": _open_clip, "hf": _hugging_face, "beats": _beats}


def _eva_clip(file: str) -> TowerFile:
    """Sun et al., EVA-CLIP; MIT licence."""
    return TowerFile(f"clip/{file}", f"https://huggingface.co/QuanSun/EVA-CLIP/resolve/main/{file}",
                     f"{file} of huggingface.co/QuanSun/EVA-CLIP",
                     dropped=("text.", "logit_scale", "visual.head.", "visual.rope.", "visual.blocks.*.attn.rope."))


def _openai_clip(file: str, sha256: str) -> TowerFile:
    """Radford et al., CLIP; MIT licence. A TorchScript archive, of which the tensors alone are read. Its address holds its hash."""
    return TowerFile(f"clip/{file}", f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}", f"{file} as github.com/openai/CLIP "
                     "lists it (clip/clip.py)", sha256=sha256,
                     dropped=("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale",
                              "prompt_embedding.", "input_resolution", "context_length", "vocab_size", "visual.proj"))


def clip_parts_file(name: str) -> TowerFile | None:
    """Of what CLIP has beside its image tower, in the file of the encoder ``name``: what the module has."""
    def parts(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
        names = {"visual.proj": "visual_proj", "text_projection": "text_projection", "logit_scale": "logit_scale"}
        ours = {names.get(name, f"text.{name}"): tensor for name, tensor in state.items()}
        return {name: tensor for name, tensor in ours.items() if name in module.state_dict()}

    file = TOWER_FILES.get(name)
    return None if file is None else replace(file, dropped=(), convert=parts)


def _swin(file: str) -> TowerFile:
    """Liu et al., Swin Transformer; MIT licence."""
    return TowerFile(f"swin/{file}", f"https://github.com/SwinTransformer/storage/releases/download/v1.0.0/{file}",
                     f"{file} from the table of github.com/microsoft/Swin-Transformer",
                     dropped=("head.", "layers.*.attn_mask", "layers.*.attn.relative_position_index"))


def _video_swin(file: str, original: str) -> TowerFile:
    """Liu et al., Video Swin Transformer; Apache 2.0 licence. ``original``: how its authors name what the release calls ``file``."""
    return TowerFile(file, f"https://github.com/SwinTransformer/storage/releases/download/v1.0.4/{original}",
                     f"{original} from the table of github.com/SwinTransformer/Video-Swin-Transformer", prefix="backbone.",
                     dropped=("layers.*.attn.relative_position_index",))


AST_NAMES = {"patch_embed.proj.": "audio_embeddings.first_conv.", "pos_embed": "audio_embeddings.position_embeddings.weight",
             "cls_token": "audio_embeddings.cls_token", "blocks.": "layer.", "norm.": "last_layernorm."}
"""Prefixes of the names in AST's original file (read without ``module.``) → those of the release."""

TOWER_FILES: dict[str, TowerFile] = {
    "evaclip01_giant": _eva_clip("EVA01_CLIP_g_14_psz14_s11B.pt"),
    "evaclip02_base": _eva_clip("EVA02_CLIP_B_psz16_s8B.pt"),
    "evaclip02_large": _eva_clip("EVA02_CLIP_L_psz14_s4B.pt"),
    "evaclip02_bige": _eva_clip("EVA02_CLIP_E_psz14_plus_s9B.pt"),
    "clip_vit_base_16": _openai_clip("ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    "clip_vit_base_32": _openai_clip("ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    "clip_vit_large_14": _openai_clip("ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    "clip_vit_large_14_336px": _openai_clip("ViT-L-14-336px.pt", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
    "swin_base_22k_224": _swin("swin_base_patch4_window7_224_22k.pth"),
    "swin_large_22k_224": _swin("swin_large_patch4_window7_224_22k.pth"),
    "videoswin_base_k600_22k": _video_swin("videoswin_base_k600_22k.pth", "swin_base_patch244_window877_kinetics600_22k.pth"),
    "videoswin_small_k400_1k": _video_swin("videoswin_small_k400_1k.pth", "swin_small_patch244_window877_kinetics400_1k.pth"),
    "beats": _beats("BEATs_iter3_plus_AS2M"),
    "ast": TowerFile(  # Gong et al., AST; BSD 3-clause licence
        "audioset_10_10_0.4593.pth", "https://www.dropbox.com/s/ca0b1v2nlxzyeb4/audioset_10_10_0.4593.pth?dl=1",
        "\"Full AudioSet, 10 tstride, 10 fstride, with Weight Averaging\" from the table of github.com/YuanGongND/ast",
        prefix="v.", dropped=("head.", "head_dist.", "dist_token"), rename=AST_NAMES, convert=_as_the_tower_reads),
}
"""By encoder name. Paths are where the release looks."""
