"""A model with a folder's weights, and what it computes of the folder's inputs, each once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import CaptionKind, Group, Modality, Task, TaskError
from omnivast.data.batch import Batch, Captions, Texts, make_texts
from omnivast.model.interface import Rows
from omnivast.model.objectives.generation import IGNORED
from omnivast.model.text.clip_tokenizer import ClipTokenizer
from omnivast.model.text.pretrained import text_parts
from omnivast.model.valor.features import ClipFeatures
from omnivast.model.valor.model import VALOR
from omnivast.model.valor.step import training_losses
from omnivast.model.weights import LoadReport, load_weights
from omnivast.scripts.tools.parity.rows import Folder, FolderError, UnsupportedError
from omnivast.utils.random import StepRandom

GROUPS = ("tv", "ta", "tva")
"""Groups over which the release's means are taken."""
PAIRS = {"va": "v-a", "vta": "v-ta", "atv": "a-tv"}
"""The release's names of groups of the contrast in which tracks are compared with tracks → ours."""
OPTIONS: dict[str, dict[str, Any]] = {"late_fusion": {"late_fusion": True}, "fineweight_none": {"fineweight_type": "none"},
                                      "lm": {"caption_type": "lm"}, "full_masker": {"full_masker": True},
                                      "label_smoothing_0.1": {"label_smoothing": 0.1}}
"""What an option's name in golden.json sets."""
SAME = ("contra_dim", "contra_type", "caption_type", "cross_attn_type", "fineweight_type", "late_fusion", "use_task_prompt",
        "contra_loss_ratio", "max_generation_len", "audio_encoder_type", "audio_melbins", "audio_target_length", "txt_encoder_type",
        "share_txt_and_multimodal", "multimodal_use_cross_attn")
"""Keys of the release that ours have alike."""
RENAMED = {"video_encoder_type": "vision_encoder_type", "video_resolution": "vision_resolution"}
ONLY = {"multimodal_encoder_type": "bert_base_uncased", "audio_patch_size": 16}
"""Keys of the release that we do not have, and the one value that ours is."""
LENGTHS = {"max_txt_len": "max_caption_len", "max_answer_len": "max_answer_len"}
"""The release does not count [CLS] and [SEP]."""
TEXTS = {"caption": "captions", "question": "questions", "answer": "answers", "retrieval": "retrieval_texts",
         "several_questions": "several_questions"}
"""What a tensor of ids begins with → its texts in golden.json."""
CLIP_TEXT = {"width": "text_width", "layers": "text_layers", "heads": "text_heads", "context_length": "context_length",
             "vocab_size": "vocab_size", "embed_dim": "embed_dim"}
"""Sizes of CLIP's text tower: ours → those of golden.json."""
CLIP_IDS = {"caption": "clip_input_ids", "retrieval": "retrieval_input_ids"}
"""Texts → the tensor of their ids for CLIP's text tower. Its vocabulary was not recorded, so that these ids are inputs."""


@dataclass(frozen=True)
class Where:
    """Values that count only where ``mask`` is set; None: all do."""

    values: Tensor
    mask: Tensor | None


def group_of(name: str) -> Group:
    """The group of a release's name. Raises UnsupportedError for one that this version has not."""
    try:
        return Group.parse(PAIRS.get(name, name))
    except TaskError:
        raise UnsupportedError(f"the group {name} of the contrast") from None


def model_config(folder: Folder) -> ModelConfig:
    """Raises UnsupportedError for settings that ours has not, FolderError for keys that are not understood."""
    golden, where = folder.golden, f"{folder.path / 'golden.json'}: model_cfg"
    cfg: dict[str, Any] = {"model_type": "valor", "pretrained": False, "text_encoder_type": "bert", "text_encoder_cfg": golden["bert"],
                           "audio_encoder_cfg": golden["ast"], "tokenizer": str(folder.path / "vocab.txt"),
                           "vision_encoder_cfg": vision_sizes(golden)}
    if golden["model_cfg"].get("txt_encoder_type", "").startswith("clip"):
        cfg["clip_text_cfg"] = {ours: golden["clip"][theirs] for ours, theirs in CLIP_TEXT.items()}
    for key, value in golden["model_cfg"].items():
        if key in ONLY:
            if value != ONLY[key]:
                raise UnsupportedError(f"{key} {value!r}; it has {ONLY[key]!r} alone")
        elif key in LENGTHS:
            cfg[LENGTHS[key]] = value + 2
        elif key in SAME or key in RENAMED:
            cfg[RENAMED.get(key, key)] = value
        else:
            raise FolderError(f"{where}: key '{key}' is not understood")
    return ModelConfig(**cfg)


def vision_sizes(golden: dict[str, Any]) -> dict[str, Any]:
    """The sizes of the vision tower by our names."""
    if "clip" in golden:
        own = golden["clip"]
        return {"width": own["width"], "layers": own["layers"], "heads": own["heads"], "patch_size": own["patch"]}
    own = golden["videoswin"]
    return {"embed_dim": own["embed_dim"], "depths": own["depths"], "num_heads": own["num_heads"], "window": own["window_size"],
            "patch": own["patch"]}


class GivenTokens(ClipTokenizer):
    """CLIP's tokens of some texts, whose ids are known."""

    def __init__(self, ids: dict[str, Tensor]) -> None:
        self.ids = ids

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        return [self.ids[text][self.ids[text] != 0].tolist() for text in texts]


class Recorded:
    """A folder of recorded values and the model with its weights on ``device``; ``changes``: settings other than the folder's."""

    def __init__(self, folder: Folder, device: torch.device | str = "cpu", **changes: Any) -> None:
        self.folder, self.golden, self.outputs = folder, folder.golden, folder.outputs
        self.cfg = ModelConfig(**{**model_config(folder).__dict__, **changes})
        self.given = frozenset(CLIP_IDS.values()) if self.cfg.txt_encoder_type.startswith("clip") else frozenset()
        self.model = self._build().eval()
        self.report: LoadReport = load_weights(self.model, folder.path / "checkpoint.pt")
        if self.report.interpolated:
            raise FolderError(f"{folder.path / 'checkpoint.pt'}: {', '.join(self.report.interpolated)} would be interpolated; the sizes in "
                              "golden.json and the checkpoint's differ")
        self.model.to(device)
        self.option = cache(lambda name: Recorded(folder, device, **OPTIONS[name]))
        """The same with an option of golden.json."""
        self.texts = cache(self._texts)
        self.pretraining = cache(self._pretraining)

    def _build(self) -> VALOR:
        if not self.given:
            return VALOR.build(self.cfg)
        ids = {text: self.outputs[tensor][row] for name, tensor in CLIP_IDS.items() for row, text in enumerate(self.listed(name))}
        return VALOR(self.cfg, *text_parts(self.cfg, VALOR.clean_text), GivenTokens(ids))

    def listed(self, name: str) -> list[str]:
        """The texts whose ids a tensor ``name`` holds."""
        return [text for own in self.by_clip(name) for text in own]

    def by_clip(self, name: str) -> list[list[str]]:
        """The same of each clip."""
        if name == "several_answers":
            return self.golden["several_answers"]["answers"]
        return [[text] if isinstance(text, str) else text for text in self.golden[TEXTS[name]]]

    def _texts(self, name: str) -> Texts:
        """The texts whose ids a tensor ``name`` holds, tokenised here, and filled to the tensor's length."""
        longest = self.cfg.max_answer_len if "answer" in name else self.cfg.max_caption_len
        texts = make_texts(self.by_clip(name), self.model.tokenizer, longest)
        spare = (0, longest - texts.ids.shape[1])
        return Texts(torch.nn.functional.pad(texts.ids, spare), torch.nn.functional.pad(texts.mask, spare), texts.clip, texts.raw)

    @property
    def captions(self) -> Texts:
        return self.texts("caption")

    @cached_property
    def batch(self) -> Batch:
        clips = len(self.golden["captions"])
        captions = Captions({CaptionKind.OMNI: self.captions}, dict.fromkeys(CaptionKind, CaptionKind.OMNI))
        frames, spectrograms = (self.folder.inputs[name].to(self.model.device) for name in ("vision_pixels", "audio_spectrograms"))
        return Batch("recorded", [str(row) for row in range(clips)], torch.arange(clips), frames, spectrograms, captions=captions,
                     questions=self.texts("question"), answers=self.texts("answer"))

    @property
    def several_answers(self) -> Batch:
        """The batch in which each question has several answers, and each of these a weight."""
        answers, questions = self.texts("several_answers"), self.texts("question")
        weights = torch.tensor([weight for own in self.golden["several_answers"]["weights"] for weight in own])
        rows = answers.clip
        asked = Texts(questions.ids[rows], questions.mask[rows], rows, [questions.raw[row] for row in rows])
        return dataclasses.replace(self.batch, questions=asked, answers=dataclasses.replace(answers, weights=weights))

    def drawn(self, name: str) -> tuple[Tensor, Tensor]:
        """Ids with words that the release had drawn to be hidden, and the labels of these."""
        labels = self.outputs[f"{name}_labels"]
        return self.outputs[f"{name}_masked_input_ids"], labels.masked_fill(labels < 0, IGNORED)

    @cached_property
    def masked(self) -> dict[str, tuple[Tensor, Tensor]]:
        kinds = [kind.value for kind in CaptionKind]
        return {"qa": self.drawn("answer"), **{f"{name}.{kind}": self.drawn(name) for name in ("cap", "mlm") for kind in kinds}}

    @cached_property
    def features(self) -> ClipFeatures:
        with torch.no_grad():
            return self.model.encode(self.batch, (Modality.VISION, Modality.AUDIO))

    def clips(self, *names: str) -> Rows:
        """What scores of the groups of these names need of the clips."""
        return self.model.embed_clips(self.features, [group_of(name) for name in names])

    def _pretraining(self, name: str) -> tuple[dict[str, float], dict[str, float]]:
        """The losses of a task of golden.json, and the norm of each parameter's gradient, by its name in the state dict."""
        task = self.golden["tasks"][name].removeprefix("pt_").replace("contra%", "ret%").replace("caption%", "cap%")
        self.model.zero_grad()
        with torch.enable_grad():
            losses = training_losses(self.model, self.batch, Task.parse(task), StepRandom(0, 0), self.masked)
            losses["loss"].backward()
        # Towers store their parameters by the release's names.
        stored = {tensor.data_ptr(): key for key, tensor in reversed(self.model.state_dict().items())}
        norms = {stored[p.data_ptr()]: float(p.grad.norm()) for p in self.model.parameters() if p.grad is not None}
        self.model.zero_grad()
        values = {key: float(value.detach()) for key, value in losses.items()}
        found = {"contra_loss": self.cfg.contra_loss_ratio * values["ret"], "caption_loss": values["cap"], "total": values["loss"]}
        return found | ({"mlm_loss": values["mlm"]} if "mlm" in values else {}), norms
