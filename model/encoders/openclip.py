"""Image towers of open_clip (github.com/mlfoundations/open_clip, MIT licence) as ``open_clip:<model>`` or ``open_clip:<model>:<tag>``.

The tag names published weights (``open_clip.list_pretrained()``); pixel statistics and QuickGELU are those of the tag, which may be
left out where a model's tags agree on them.
"""

from __future__ import annotations

import difflib
from typing import Any

from torch import Tensor, nn

from omnivast.config.extras import import_extra
from omnivast.config.schema import ModelConfig
from omnivast.config.words import did_you_mean
from omnivast.model.encoders.base import EncoderError, VisionEncoder, register_vision
from omnivast.model.encoders.eva import CLIP_MEAN, CLIP_STD
from omnivast.model.encoders.vit import TimmEncoder

PREPROCESSING = {"mean": CLIP_MEAN, "std": CLIP_STD, "quick_gelu": False}


class OpenClipTower(VisionEncoder):
    """An image tower of open_clip: the ViT's tokens after the last LayerNorm, or the ResNet's last map; nothing pooled or projected.

    A ViT that averages its patches (CLIPA) gives only the patches. ``heads`` names the parts of the file that are left out.
    """

    heads = ("visual.proj", "visual.attnpool")

    def __init__(self, visual: Any, mean: tuple, std: tuple) -> None:
        super().__init__()
        self.visual, self.mean, self.std = visual, tuple(mean), tuple(std)
        self.is_vit = hasattr(visual, "transformer")
        self.has_cls = self.is_vit and visual.pool_type == "tok"
        if self.is_vit:
            self.width, visual.proj = visual.positional_embedding.shape[-1], None
        else:
            self.width, visual.attnpool = visual.layer4[-1].conv3.out_channels, nn.Identity()

    def set_checkpointing(self, enable: bool) -> None:
        """Recompute each block's activations in the backward pass. Raises EncoderError for a ResNet, which cannot."""
        if self.is_vit:
            self.visual.set_grad_checkpointing(enable)
        elif enable:
            raise EncoderError("model_cfg.checkpointing: open_clip's ResNets cannot recompute activations; set \"checkpointing\": false")

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, tokens, width)."""
        if not self.is_vit:
            features = self.visual.forward_intermediates(pixels, indices=1, intermediates_only=True)
            return features["image_intermediates"][0].flatten(2).transpose(1, 2)
        tokens = self.visual.ln_post(self.visual.transformer(self.visual._embeds(pixels)))
        return tokens if self.has_cls else tokens[:, 1:]


@register_vision("open_clip:")
def any_open_clip_tower(cfg: ModelConfig) -> VisionEncoder:
    """``open_clip:<model>[:<tag>]``: its weights come from ``pretrained_weights/open_clip/<model>[.<tag>].safetensors`` or from scratch."""
    try:
        open_clip = import_extra("open_clip")
    except ImportError as error:
        raise EncoderError(f"model_cfg.vision_encoder_type '{cfg.vision_encoder_type}': {error}") from None
    from open_clip.model import _build_vision_tower

    name, _, tag = str(cfg.vision_encoder_type).partition(":")[2].partition(":")
    settings = open_clip.get_model_config(name)
    if settings is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3)
        raise EncoderError(f"open_clip has no model '{name}'" + (f"; near are {', '.join(near)}" if near else ""))
    prepared = preprocessing(name, tag, settings.get("quick_gelu", False))
    sizes = {**settings["vision_cfg"], "image_size": cfg.vision_resolution, "timm_model_pretrained": False, **cfg.vision_encoder_cfg}
    if sizes.get("attentional_pool"):
        raise EncoderError(f"open_clip:{name} pools its tokens by attention before its last LayerNorm (CoCa); choose a CLIP model")
    try:
        visual: Any = _build_vision_tower(settings["embed_dim"], sizes, quick_gelu=prepared["quick_gelu"])
    except TypeError as error:
        raise EncoderError(f"model_cfg.vision_encoder_cfg: open_clip's '{name}' does not take it: {error}") from None
    if not hasattr(visual, "trunk"):
        return OpenClipTower(visual, prepared["mean"], prepared["std"])
    if hasattr(visual.trunk, "set_input_size"):
        visual.trunk.set_input_size(img_size=(cfg.vision_resolution, cfg.vision_resolution))
    return TimmEncoder(visual.trunk, prepared["mean"], prepared["std"])


def preprocessing(name: str, tag: str, quick_gelu: bool) -> dict[str, Any]:
    """Mean, standard deviation and activation of a model's weights. Raises EncoderError for an unknown tag or one that is needed."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag and tag not in tags:
        raise EncoderError(f"open_clip:{name} has no weights '{tag}'; there are {', '.join(tags) or 'none'}.{did_you_mean(tag, tags)}")
    defaults = {**PREPROCESSING, "quick_gelu": quick_gelu}
    settings = [{key: open_clip.get_pretrained_cfg(name, one).get(key, default) or default for key, default in defaults.items()}
             for one in ([tag] if tag else tags)]
    if any(one != settings[0] for one in settings):
        raise EncoderError(f"open_clip:{name} has weights of different preprocessing or activation; name one, as in "
                           f"open_clip:{name}:{tags[0]}. There are {', '.join(tags)}")
    return settings[0] if settings else defaults
