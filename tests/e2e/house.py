"""A folder with annotations and clips of the benchmarks that recipes name, in which run.py trains and tests them with tiny towers."""

from __future__ import annotations

import json
import math
from pathlib import Path

from omnivast.config.load import load_config
from omnivast.config.schema import Config
from omnivast.utils.log import read_jsonl
from tests.e2e.benchmarks import lay_out, lay_out_by_id, make_media
from tests.e2e.program import ROOT, call
from tests.model.avllm.tiny import make_llm
from tests.model.tiny import BEATS, VAST_TINY
from tests.model.valor.recorded import clip_words

# The recipes' own sizes but for towers, pixels and spectrograms; a third frame count would only cost time.
SMALL = ["--vision_resolution", "16", "--audio_melbins", "32", "--audio_target_length", "32", "--device", "cpu", "--num_threads", "1",
         "--n_workers", "0", "--tensorboard", "false", "--log_steps", "1"]
# By the encoder's name, or how it begins: flags that make it tiny.
TOWERS = {
    "evaclip": ["--vision_encoder_type", "vit_small_scratch", "--vision_encoder_cfg", json.dumps(
        {"width": 16, "depth": 1, "heads": 2, "stride": 8, "stem_width": 8, "stem_norm": "group"})],
    "videoswin": ["--vision_encoder_cfg", json.dumps({"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window": [2, 2, 2]})],
    "clip": ["--vision_encoder_cfg", json.dumps({"patch_size": 8, "width": 16, "layers": 2, "heads": 2})],
    "open_clip": ["--vision_encoder_cfg", json.dumps({"patch_size": 8, "width": 16, "layers": 2, "head_width": 8})],
    "hf:laion/clap": ["--audio_encoder_cfg", json.dumps(
        {"model_type": "clap_audio_model", "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2], "spec_size": 64,
         "num_mel_bins": 32, "window_size": 4, "hidden_size": 16})],
    "hf:openai/whisper": ["--audio_encoder_cfg", json.dumps(
        {"model_type": "whisper", "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
         "num_mel_bins": 32, "max_source_positions": 32})],
    "beats": ["--audio_encoder_cfg", json.dumps(BEATS)],
    "ast": ["--audio_encoder_cfg", json.dumps(
        {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64})],
}
TEXT = ["--pretrained", "false", "--text_encoder_type", "bert", "--tokenizer", str(VAST_TINY / "vocab.txt"), "--contra_dim", "16",
        "--text_encoder_cfg", json.dumps({"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
                                          "max_position_embeddings": 96})]
CLIP_TEXT = ["--clip_text_cfg", json.dumps({"width": 16, "layers": 1, "heads": 2, "context_length": 48, "vocab_size": 64, "embed_dim": 16})]
TRAINING = ["--train_batch_size", "4", "--data_cfg.val", "[]", "--first_eval", "false", "--save_best", "false", "--valid_freq", "0"]


class House:
    """A folder with ``config`` and, for the recipe at hand, ``datasets``; run.py runs there in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "config").symlink_to(ROOT / "config")
        self.media = make_media(folder / "media")

    def furnish(self, path: str, *flags: str) -> Config:
        """The recipe, its annotations and media in place."""
        config = load_config(["--config", path, *flags])
        for training, datasets in ((True, config.data_cfg.train), (False, config.data_cfg.val)):
            for dataset in datasets:
                if dataset.type == "valor":
                    lay_out_by_id(self.folder, dataset, self.media)
                else:
                    lay_out(self.folder, dataset, self.media, training)
        return config

    def train(self, path: str, output: str, *flags: str) -> Path:
        """Two steps, or one of each corpus where there are several. Returns the weights."""
        config = self.furnish(path, *flags)
        corpora = {dataset.joined or dataset.name for dataset in config.data_cfg.train}
        steps = str(2 if len(corpora) == 1 else 1)
        assert call(["--config", path, *SMALL, *TRAINING, "--train_steps", steps, "--output_dir", output, *flags]) == 0
        log = read_jsonl(self.folder / output / "log" / "metrics.jsonl")
        assert len(log) == max(2, len(corpora)) and all(math.isfinite(row["loss"]) for row in log)
        assert {row["corpus"] for row in log} == corpora
        return self.folder / output / "ckpt" / f"model_step_{len(log)}.pt"

    def test(self, path: str, output: str, weights: Path, *flags: str) -> dict:
        """Results by dataset and objective."""
        assert call(["--config", path, *SMALL, "--output_dir", output, "--mode", "testing", "--checkpoint", str(weights), *flags]) == 0
        return {file.stem: json.loads(file.read_text()) for file in (self.folder / output / "results").glob("*.json")}

    def llm(self) -> str:
        """A folder with a tiny language model, made when it is first asked for."""
        folder = self.folder / "llm"
        return str(folder) if folder.is_dir() else make_llm(folder, tokenizer="llama2", max_position_embeddings=2048)

    def towers(self, path: str) -> list[str]:
        """Flags for the towers that the recipe has."""
        avllm = ["--llm", self.llm()] if path.startswith("config/avllm/") else []
        model = load_config(["--config", path, *avllm]).model_cfg
        text = TEXT
        if model.model_type == "avllm":
            text = ["--pretrained", "false", *avllm]
        elif model.txt_encoder_type.startswith("clip"):
            (self.folder / "clip_words").mkdir(exist_ok=True)
            text = [*TEXT, *CLIP_TEXT, "--clip_tokenizer", clip_words(self.folder / "clip_words")]
        names = [name for name in (model.vision_encoder_type, model.audio_encoder_type) if name is not None]
        return [*text, *(flag for name in names for start, flags in TOWERS.items() if name.startswith(start) for flag in flags)]
