"""A model with a folder's weights, and what it computes of the folder's inputs, each once."""

from __future__ import annotations

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
                                      "lm": {"caption_type": "lm"}}
"""What an option's name in golden.json sets."""
SAME = ("contra_dim", "contra_type", "caption_type", "cross_attn_type", "fineweight_type", "late_fusion", "use_task_prompt",
        "contra_loss_ratio", "max_generation_len", "audio_encoder_type", "audio_melbins", "audio_target_length")
"""Keys of the release that ours have alike."""
RENAMED = {"video_encoder_type": "vision_encoder_type", "video_resolution": "vision_resolution"}
ONLY = {"txt_encoder_type": "bert_base_uncased", "multimodal_encoder_type": "bert_base_uncased", "share_txt_and_multimodal": True,
        "multimodal_use_cross_attn": True, "audio_patch_size": 16}
"""Keys of the release that we do not have, and the one value that ours is."""
LENGTHS = {"max_txt_len": "max_caption_len", "max_answer_len": "max_answer_len"}
"""The release does not count [CLS] and [SEP]."""
TEXTS = {"caption": "captions", "question": "questions", "answer": "answers", "retrieval": "retrieval_texts",
         "several_questions": "several_questions"}
"""What a tensor of ids begins with → its texts in golden.json."""


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


class Recorded:
    """A folder of recorded values and the model with its weights; ``changes``: settings other than the folder's."""

    def __init__(self, folder: Folder, **changes: Any) -> None:
        self.folder, self.golden, self.outputs = folder, folder.golden, folder.outputs
        self.cfg = ModelConfig(**{**model_config(folder).__dict__, **changes})
        self.model = VALOR.build(self.cfg).eval()
        self.report: LoadReport = load_weights(self.model, folder.path / "checkpoint.pt")
        if self.report.interpolated:
            raise FolderError(f"{folder.path / 'checkpoint.pt'}: {', '.join(self.report.interpolated)} would be interpolated; the sizes in "
                              "golden.json and the checkpoint's differ")
        self.option = cache(lambda name: Recorded(folder, **OPTIONS[name]))
        """The same with an option of golden.json."""
        self.texts = cache(self._texts)
        self.pretraining = cache(self._pretraining)

    def _texts(self, name: str) -> Texts:
        """The texts whose ids a tensor ``name`` holds, tokenised here, and filled to the tensor's length."""
        if name == "several_answers":
            listed = self.golden["several_answers"]["answers"]
        else:
            listed = [[text] if isinstance(text, str) else text for text in self.golden[TEXTS[name]]]
        longest = self.cfg.max_answer_len if "answer" in name else self.cfg.max_caption_len
        texts = make_texts(listed, self.model.tokenizer, longest)
        spare = (0, longest - texts.ids.shape[1])
        return Texts(torch.nn.functional.pad(texts.ids, spare), torch.nn.functional.pad(texts.mask, spare), texts.clip, texts.raw)

    @property
    def captions(self) -> Texts:
        return self.texts("caption")

    @cached_property
    def batch(self) -> Batch:
        clips = len(self.golden["captions"])
        captions = Captions({CaptionKind.OMNI: self.captions}, dict.fromkeys(CaptionKind, CaptionKind.OMNI))
        return Batch("recorded", [str(row) for row in range(clips)], torch.arange(clips), self.folder.inputs["vision_pixels"],
                     self.folder.inputs["audio_spectrograms"], captions=captions, questions=self.texts("question"),
                     answers=self.texts("answer"))

    @cached_property
    def masked(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The words that the release had drawn to be hidden."""
        def drawn(name: str) -> tuple[Tensor, Tensor]:
            labels = self.outputs[f"{name}_labels"]
            return self.outputs[f"{name}_masked_input_ids"], labels.masked_fill(labels < 0, IGNORED)

        kinds = [kind.value for kind in CaptionKind]
        return {"qa": drawn("answer"), **{f"{name}.{kind}": drawn(name) for name in ("cap", "mlm") for kind in kinds}}

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
