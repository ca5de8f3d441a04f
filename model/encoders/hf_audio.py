"""``hf:<name or folder>``: the audio towers of the transformers library (Apache 2.0 licence), each with its front end.

- CLAP (Wu et al., arXiv:2211.06687): the HTSAT audio tower, tokens of its last map;
- Whisper (Radford et al., arXiv:2212.04356): the encoder, a token for every 20 ms;
- AST (Gong et al., arXiv:2104.01778): its [CLS] and distillation token averaged, as its classifier does, then the patches.

Sizes come from the folder's ``config.json``, its model's name from ``model_type``; ``audio_encoder_cfg`` overrides single keys, and
stands for the whole where there is no folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from omnivast.config.files import read_config
from omnivast.config.schema import ModelConfig
from omnivast.config.words import did_you_mean
from omnivast.model.encoders.base import AudioEncoder, EncoderError, register_audio, sizes
from omnivast.model.weights import towers

CLAP_EXTRACTOR = {"sampling_rate": 48_000, "hop_length": 480, "fft_window_size": 1024, "frequency_min": 50, "frequency_max": 14_000,
                  "top_db": None}
WHISPER_EXTRACTOR = {"sampling_rate": 16_000, "hop_length": 160, "n_fft": 400}
AST_EXTRACTOR = {"sampling_rate": 16_000, "mean": -4.2677393, "std": 4.5689974, "do_normalize": True}
"""What data/audio.py does, in the words of ``preprocessor_config.json``."""


def transformers_audio() -> ModuleType:
    """The transformers library, fit to build audio models.

    It imports torchaudio where that is installed, only to read sound files, and fails where that was built for another torch. Nothing
    here reads sound with it, so a torchaudio that cannot be imported is hidden.
    """
    import transformers

    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        sys.modules["torchaudio"] = None  # type: ignore[assignment]
        for known in (transformers.utils.is_torchaudio_available, transformers.utils.is_speech_available):
            known.cache_clear()
    return transformers


class HuggingFaceAudio(AudioEncoder):
    """(N, T, mel) spectrograms → (N, tokens, width) through ``body``, a model of transformers."""

    body: Any
    starts: tuple[str, ...] = ("",)
    """Prefixes that the tower's names may have in a file; the first one that occurs there counts."""

    def set_checkpointing(self, enable: bool) -> None:
        """Recompute each block's activations in the backward pass. Raises EncoderError where transformers cannot for this model."""
        if not self.body.supports_gradient_checkpointing:
            if enable:
                raise EncoderError(f"model_cfg.checkpointing: transformers' {type(self.body).__name__} cannot recompute activations; set "
                                   "\"checkpointing\": false")
            return
        word = "activation" if hasattr(self.body, "activation_checkpointing_enable") else "gradient"  # the library's old name for it
        if enable:
            getattr(self.body, f"{word}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.body, f"{word}_checkpointing_disable")()

    def from_file(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file under this tower's names. Tensors that the file lacks are absent; those of another shape keep that shape.
        """
        start = next(s for s in (*self.starts, "") if any(name.startswith(s) for name in state))
        state = self.cut({name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)})
        logging = transformers_audio().utils.logging
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        bar = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            body, report = type(self.body).from_pretrained(None, config=self.body.config, state_dict=state, output_loading_info=True,
                                                           ignore_mismatched_sizes=True)
        finally:
            logging.set_verbosity(verbosity)
            if bar:
                logging.enable_progress_bar()
        expected = self.state_dict()
        fitting = {f"body.{name}": tensor for name, tensor in body.state_dict().items() if name not in report["missing_keys"]}
        fitting = {name: tensor for name, tensor in fitting.items() if name in expected}
        return {**fitting, **{f"body.{name}": torch.empty(file, device="meta") for name, file, _ in report["mismatched_keys"]}}

    def cut(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cut a file's tensors to the sizes of this tower, where they are smaller."""
        return state


class Clap(HuggingFaceAudio):
    """64 tokens for up to 10.24 seconds. A model trained with fusion takes its path for sounds that are not longer."""

    starts = ("audio_model.",)

    def __init__(self, settings: Any, length: int) -> None:
        super().__init__()
        most = settings.spec_size**2 // settings.num_mel_bins
        if length > most:
            raise EncoderError(f"model_cfg.audio_target_length {length}: CLAP takes at most {most} mel frames")
        self.body = transformers_audio().ClapAudioModel(settings)
        tower = self.body.audio_encoder
        self.width, self.frontend = tower.num_features, "hf_clap"
        if settings.enable_fusion:
            self.frontend = "hf_clap_fused"
            tower.patch_embed.fusion_model = tower.patch_embed.mel_conv2d = nn.Identity()
            tower.enable_fusion = tower.patch_embed.enable_fusion = False

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(N, T, mel) → (N, tokens, width)."""
        return self.body(spectrogram[:, None]).last_hidden_state.flatten(2).transpose(1, 2)


class Whisper(HuggingFaceAudio):
    """T / 2 tokens. Slices may be shorter than Whisper's 30 seconds: the first positions are used."""

    frontend = "hf_whisper"
    starts = ("model.encoder.", "encoder.")

    def __init__(self, settings: Any, length: int) -> None:
        super().__init__()
        if length % 2 or length > 2 * settings.max_source_positions:
            raise EncoderError(f"model_cfg.audio_target_length {length}: Whisper takes an even number of mel frames, at most "
                               f"{2 * settings.max_source_positions}")
        settings.max_source_positions = length // 2
        self.body = transformers_audio().models.whisper.modeling_whisper.WhisperEncoder(settings)
        self.width = settings.d_model

    def cut(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        name = "embed_positions.weight"
        return {**state, name: state[name][: self.body.config.max_source_positions]} if name in state else state

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(N, T, mel) → (N, T / 2, width)."""
        return self.body(spectrogram.transpose(1, 2)).last_hidden_state


class SpectrogramTransformer(HuggingFaceAudio):
    """AST: a token for each of its overlapping patches, after one for the whole."""

    frontend = "hf_ast"
    has_cls = True
    starts = ("audio_spectrogram_transformer.",)

    def __init__(self, settings: Any, length: int) -> None:
        super().__init__()
        if length != settings.max_length:
            raise EncoderError(f"model_cfg.audio_target_length {length}: this AST takes {settings.max_length} mel frames")
        self.body, self.width = transformers_audio().ASTModel(settings), settings.hidden_size

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(N, T, mel) → (N, 1 + patches, width)."""
        tokens = self.body(spectrogram).last_hidden_state
        return torch.cat([tokens[:, :2].mean(1, keepdim=True), tokens[:, 2:]], 1)


KINDS: dict[str, tuple[type[Any], str, dict[str, Any]]] = {
    "clap": (Clap, "ClapAudioConfig", CLAP_EXTRACTOR), "clap_audio_model": (Clap, "ClapAudioConfig", CLAP_EXTRACTOR),
    "whisper": (Whisper, "WhisperConfig", WHISPER_EXTRACTOR),
    "audio-spectrogram-transformer": (SpectrogramTransformer, "ASTConfig", AST_EXTRACTOR),
}
"""``model_type`` → the tower, the class of its config, what its feature extractor must say."""


@register_audio("hf:")
def any_transformers_audio(cfg: ModelConfig) -> AudioEncoder:
    """``hf:<name or folder>``. Raises EncoderError for a model that is none of these three, a front end that differs, wrong sizes."""
    name = str(cfg.audio_encoder_type).split(":", 1)[1]
    folder = hf_folder(name)
    file = folder / "config.json"
    config = read_config(file) if file.is_file() else {}
    kind = cfg.audio_encoder_cfg.get("model_type", config.get("model_type"))
    if kind is None:
        raise EncoderError(f"audio encoder 'hf:{name}': no {file}, which states its sizes; fetch it with "
                           f"`python -m omnivast weights hf:{name}`, or give \"model_type\" and sizes in audio_encoder_cfg")
    if kind not in KINDS:
        raise EncoderError(f"{file}: model_type '{kind}' is no audio encoder known here; valid are {', '.join(KINDS)}."
                           + did_you_mean(str(kind), KINDS))
    tower, settings_class, extractor = KINDS[kind]
    make = getattr(transformers_audio(), settings_class)
    valid = make().to_dict()
    given = {key: value for key, value in config.get("audio_config", config).items() if key in valid}
    known = sizes({**valid, **given}, cfg.audio_encoder_cfg, "audio_encoder_cfg")
    settings = make(**{key: known[key] for key in (*given, *cfg.audio_encoder_cfg) if key != "model_type"})
    if cfg.audio_melbins != settings.num_mel_bins:
        raise EncoderError(f"model_cfg.audio_melbins {cfg.audio_melbins}: 'hf:{name}' takes {settings.num_mel_bins}")
    _check_extractor(folder / "preprocessor_config.json", extractor)
    return tower(settings, cfg.audio_target_length)


def hf_folder(name: str) -> Path:
    """Where the config of ``hf:<name or folder>`` lies."""
    return Path(name) if Path(name).is_dir() else towers.WEIGHTS / "hf" / name


def _check_extractor(file: Path, wanted: dict[str, Any]) -> None:
    """Refuse a folder whose feature extractor is not the one that data/audio.py has for its kind."""
    extractor = read_config(file) if file.is_file() else {}
    for key, value in wanted.items():
        if key in extractor and extractor[key] != value:
            raise EncoderError(f"{file}: {key} is {extractor[key]}; the front end here has {value}")
