"""A folder of values recorded from the released VAST, laid out as tests/goldens/vast_tiny.

It holds checkpoint.pt, vocab.txt, golden.json (sizes, texts, losses, gradient norms, generated ids), inputs.safetensors and
outputs.safetensors; sizes, texts, the number of clips and the groups are its own. Everything is computed again in float32, without dropout,
gathering without gradient as the release does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivast.config.fields import accepted_keys, check_value, section_keys
from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import CaptionKind, Group, Modality, Task
from omnivast.data.batch import Batch, Captions, Texts, make_texts
from omnivast.model.encoders.beats import ITER3_PLUS
from omnivast.model.encoders.eva import EVA01_GIANT
from omnivast.model.objectives.generation import IGNORED
from omnivast.model.text.bert import TextSizes
from omnivast.model.text.generate import beam_search
from omnivast.model.text.layout import Layout
from omnivast.model.text.tokenizer import load_tokenizer
from omnivast.model.vast.model import HEAD_GROUPS, VAST
from omnivast.model.vast.names import UNUSED
from omnivast.model.vast.negatives import Negatives
from omnivast.model.vast.step import training_losses
from omnivast.model.weights import LoadReport, load_weights
from omnivast.model.weights.load import begins
from omnivast.scripts.tools.parity.rows import (
    Folder,
    FolderError,
    Row,
    compare_numbers,
    compare_sequence,
    compare_tensor,
    known,
    until,
)
from omnivast.utils.random import StepRandom

TEXTS = {"captions": "max_caption_len", "vision_captions": "max_caption_len", "audio_captions": "max_caption_len",
         "omni_captions": "max_omni_caption_len", "subtitles": "max_subtitle_len", "questions": "max_caption_len",
         "answers": "max_answer_len"}
"""Lists of texts, one per clip, and the setting that says how long they may be."""
NEGATIVES = ("negative_condition_of_caption", "negative_caption_of_condition")
SECTIONS = ("model_cfg", "eva", "beats", "bert", *TEXTS, *NEGATIVES, "losses", "gradient_norms", "generated")
EVA_SECTIONS = {"embed_dim": "width of CLIP's contrastive space", "text_cfg": "the CLIP text tower"}
"""Keys of "eva" besides vision_cfg; VAST uses neither."""
EVA_SWITCHES = {"image_size": None, "eva_model_name": None, "xattn": None, "fusedLN": None}
BEATS_SWITCHES = {"activation_fn": "gelu", "layer_norm_first": False, "conv_bias": False, "relative_position_embedding": True,
                  "gru_rel_pos": True, "finetuned_model": False, "attention_dropout": None, "activation_dropout": None,
                  "dropout_input": None}
"""Keys that are no size here: the one value that the model implements, or None where any value gives the same outputs."""
GIVEN = ("cap_masked_input_ids", "cap_labels", "answer_masked_input_ids", "answer_labels")
"""Tensors of outputs.safetensors that are inputs of the losses."""
GRADIENT_NOISE = torch.finfo(torch.float32).eps
"""Of the whole gradient's norm. Norms below it are rounding: keys' biases have a gradient of zero."""


class Recorded:
    """A folder of recorded values and the model with its weights on ``device``."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        self.folder = folder
        files = Folder.read(folder, ("checkpoint.pt", "vocab.txt"), "tests/goldens/vast_tiny")
        self.golden, self.outputs, inputs = files.golden, files.outputs, files.inputs
        where = f"{folder / 'golden.json'}"
        known(self.golden, SECTIONS, where)
        if lacking := [key for key in SECTIONS if key not in self.golden]:
            raise FolderError(f"{where}: lacks {', '.join(lacking)}")
        known(inputs, ("vision_pixels", "audio_spectrograms"), str(folder / "inputs.safetensors"))
        self.frames, self.spectrograms = (inputs[name].to(device) for name in ("vision_pixels", "audio_spectrograms"))
        for key in (*TEXTS, *NEGATIVES):
            if len(self.golden[key]) != len(self.frames):
                raise FolderError(f"{where}: {key} has {len(self.golden[key])} entries, but there are {len(self.frames)} clips")
        self.cfg = self._config(where)
        self.tokenizer = load_tokenizer(folder)
        known(self.golden["bert"], TextSizes.__dataclass_fields__, f"{where}: bert")
        self.model = VAST(self.cfg, self.tokenizer, TextSizes(**self.golden["bert"])).eval()
        self.model.gather_with_grad = False
        self.report: LoadReport = load_weights(self.model, folder / "checkpoint.pt")
        if self.report.interpolated:
            raise FolderError(f"{folder / 'checkpoint.pt'}: {', '.join(self.report.interpolated)} would be interpolated; the sizes in "
                              "golden.json and the checkpoint's differ")
        self.model.to(device)
        self._parse_names()

    def _config(self, where: str) -> ModelConfig:
        golden, valid = self.golden, accepted_keys("model_cfg")
        known(golden["model_cfg"], valid, f"{where}: model_cfg")
        own = {key: check_value(value, valid[key], f"{where}: model_cfg.{key}") for key, value in golden["model_cfg"].items()
               if key in section_keys("model_cfg")}
        known(golden["eva"], ("vision_cfg", *EVA_SECTIONS), f"{where}: eva")
        vision = sizes(golden["eva"].get("vision_cfg", {}), EVA01_GIANT, EVA_SWITCHES, f"{where}: eva.vision_cfg")
        audio = sizes(golden["beats"], ITER3_PLUS, BEATS_SWITCHES, f"{where}: beats")
        cfg = ModelConfig(**{**own, "vision_encoder_cfg": vision, "audio_encoder_cfg": audio, "pretrained": False,
                             "audio_target_length": self.spectrograms.shape[-2], "audio_melbins": self.spectrograms.shape[-1]})
        if (cfg.vision_encoder_type, cfg.audio_encoder_type) != ("evaclip01_giant", "beats"):
            raise FolderError(f"{where}: sizes are understood for evaclip01_giant and beats, "
                              f"not for {cfg.vision_encoder_type} and {cfg.audio_encoder_type}")
        if self.frames.shape[-1] != cfg.vision_resolution:
            raise FolderError(f"{where}: vision_resolution is {cfg.vision_resolution}, vision_pixels has {self.frames.shape[-1]}")
        return cfg

    def _parse_names(self) -> None:
        """Which groups were recorded for which objective; every name must be understood."""
        self.groups: dict[str, dict[str, Group]] = {key: {} for key in ("ret", "cap", "qa", "multi_ret", "multi_cap")}
        for name in self.golden["losses"]:
            kind, _, rest = name.partition(".")
            if kind != "pretrain":
                known([kind], self.groups, f"golden.json: losses, in '{name}'")
                self.groups[kind][rest.partition(".")[0]] = Group.parse(rest.partition(".")[0])
        self.searches: list[tuple[str, Group, int]] = []
        for name in self.golden["generated"]:
            kind, spelling, beam = [*name.split("."), "", ""][:3]
            known([kind], ("cap", "cap_ids", "qa", "qa_ids"), f"golden.json: generated, in '{name}'")
            if not beam.startswith("beam") or not beam[4:].isdigit():
                raise FolderError(f"golden.json: generated: '{name}' is not understood; expected {kind}.<group>.beam<number>")
            self.searches.append((name, Group.parse(spelling), int(beam[4:])))

    def texts(self, name: str) -> Texts:
        return make_texts([[text] for text in self.golden[name]], self.tokenizer, getattr(self.cfg, TEXTS[name]))

    @cached_property
    def single(self) -> Batch:
        """The batch in which every group has the same caption."""
        return self._batch(Captions({CaptionKind.OMNI: self.texts("captions")}, dict.fromkeys(CaptionKind, CaptionKind.OMNI)))

    @cached_property
    def several(self) -> Batch:
        """The batch with a caption of each kind."""
        return self._batch(Captions({kind: self.texts(f"{kind.value}_captions") for kind in CaptionKind}))

    def _batch(self, captions: Captions) -> Batch:
        rows = torch.arange(len(self.frames))
        return Batch("recorded", [str(row) for row in rows.tolist()], rows, self.frames, self.spectrograms, self.texts("subtitles"),
                     captions, self.texts("questions"), self.texts("answers"))

    def masked(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """The recorded masks. They depend on row and position alone, so that they apply to every kind of caption."""
        fixed = {}
        parts = [(f"cap.{kind.value}", batch.captions[kind], "cap", "caption") for kind in CaptionKind]
        for name, own, key, source in [*parts, ("qa", self.texts("answers"), "answer", "answer")]:
            names = (f"{key}_masked_input_ids", f"{key}_labels", f"{source}_input_ids")
            if not (self.groups["qa"] if name == "qa" else self.groups["cap"] or self.groups["multi_cap"]):
                continue
            if absent := [name for name in names if name not in self.outputs]:
                raise FolderError(f"{self.folder / 'outputs.safetensors'}: lacks {', '.join(absent)}, which the losses need")
            length = own.ids.shape[1]
            spare = max(0, length - self.outputs[names[0]].shape[1])
            hidden, labels, plain = (torch.nn.functional.pad(self.outputs[name], (0, spare), value=IGNORED)[:, :length] for name in names)
            chosen = (labels != IGNORED) & own.mask
            fixed[name] = (torch.where(chosen & (hidden != plain), hidden, own.ids), own.ids.masked_fill(~chosen, IGNORED))
        return fixed

    def losses(self, batch: Batch, groups: Mapping[str, Iterable[Group]]) -> dict[str, Tensor]:
        """The losses of the objectives and groups, with the recorded negatives and masks."""
        task = Task.parse("_".join("%".join([name, *map(str, own)]) for name, own in groups.items() if own))
        rows = Negatives(*(torch.tensor(self.golden[key]) for key in NEGATIVES))
        return training_losses(self.model, batch, task, StepRandom(0, 0), dict.fromkeys(task.all_groups, rows), self.masked(batch))


def sizes(given: Mapping[str, Any], valid: Mapping[str, Any], switches: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The sizes among ``given``; switches must have the value that is implemented."""
    known(given, (*valid, *switches), where)
    for key, only in switches.items():
        if only is not None and given.get(key, only) != only:
            raise FolderError(f"{where}: {key} is {given[key]!r}; only {only!r} is implemented")
    return {key: value for key, value in given.items() if key in valid}


@torch.no_grad()
def outputs(r: Recorded) -> dict[str, Tensor]:
    """Everything that outputs.safetensors may hold, computed again."""
    model, made = r.model, {}
    features = model.encode(r.single, list(Modality))
    memory = model.memory(features)
    made["vision_output"], made["audio_output"] = model.vision_tokens(r.frames), model.audio_tokens(r.spectrograms)
    for name in ("caption", "subtitle", "question", "answer"):
        texts = r.texts(f"{name}s")
        spare = getattr(r.cfg, TEXTS[f"{name}s"]) - texts.ids.shape[1]
        ids = torch.nn.functional.pad(texts.ids, (0, spare), value=r.tokenizer.pad)
        mask = torch.nn.functional.pad(texts.mask, (0, spare))
        made[f"{name}_input_ids"], made[f"{name}_attention_mask"] = ids, mask.long()
        if name in ("caption", "subtitle"):
            made[f"{name}_output"] = model.multimodal_encoder.encode(Layout.of(ids, mask, compute_padding=True)).padded()
    captions = r.texts("captions")
    made["feat_t"] = model.embed_texts(captions)
    for key in ("v", "a", "s", *HEAD_GROUPS):
        made[f"feat_{key}"] = model.embed_clips(features, Group.parse(key))
        made[f"condition_feats_{key}"] = torch.cat([features.condition[m] for m in Group.parse(key)], 1)
    n = len(r.frames)
    for spelling, group in scored(r).items():
        scores = model.match(memory, group, captions.ids.repeat_interleave(n, 0), captions.mask.repeat_interleave(n, 0),
                             torch.arange(n).repeat(n))
        made[f"itm_scores_{spelling}"] = scores.sigmoid().view(n, n)
    return made


def scored(r: Recorded) -> dict[str, Group]:
    """The groups whose matching scores are recorded, or should be."""
    names = [name.removeprefix("itm_scores_") for name in r.outputs if name.startswith("itm_scores_")]
    return {**r.groups["ret"], **{name: Group.parse(name) for name in names}}


def compare_outputs(r: Recorded) -> Iterator[Row]:
    """A row per tensor: all recorded ones, and those that the recorded groups need."""
    made = outputs(r)
    known(r.outputs, (*made, *GIVEN), str(r.folder / "outputs.safetensors"))
    groups = {**r.groups["ret"], **r.groups["cap"], **r.groups["qa"]}
    needed = ["caption_input_ids", "caption_attention_mask", "caption_output", "feat_t"]
    for letter, name in (("v", "vision"), ("a", "audio"), ("s", "subtitle")):
        needed += [f"{name}_output"] if any(letter in group.key for group in groups.values()) else []
    needed += [f"condition_feats_{group.key}" for group in groups.values()]
    needed += [name for key, group in r.groups["ret"].items() for name in (f"feat_{group.key}", f"itm_scores_{key}")]
    for name in dict.fromkeys([*needed, *r.outputs]):
        if name not in r.outputs:
            yield Row("output", name, math.inf, 0.0, "missing in outputs.safetensors")
        elif name not in GIVEN:
            yield compare_tensor(name, made[name].cpu(), r.outputs[name])


def compare_losses(r: Recorded) -> Iterator[Row]:
    """A row per loss, then one per parameter's gradient norm of ``pretrain.total``."""
    made = {**group_losses(r, "", r.single), **group_losses(r, "multi_", r.several)}
    recorded, norms = r.golden["losses"], r.golden["gradient_norms"]
    if not norms and not any(name.startswith("pretrain.") for name in recorded):
        known(recorded, made, "golden.json: losses")
        yield from compare_numbers("loss", made, recorded)
        return
    losses = r.losses(r.several, {name: (r.groups[f"multi_{name}"] or r.groups[name]).values() for name in ("ret", "cap")})
    made |= {"pretrain.total": losses["loss"].item(), "pretrain.loss_itc": losses["itc"].item(),
             "pretrain.loss_itm": losses["itm"].item() * r.cfg.itm_ratio, "pretrain.loss_cap": losses["cap"].item()}
    known(recorded, made, "golden.json: losses")
    yield from compare_numbers("loss", made, recorded)
    r.model.zero_grad()
    losses["loss"].backward()
    own = {name: float(p.grad.norm()) for name, p in r.model.named_parameters() if p.grad is not None}
    yield from compare_numbers("gradient", own, norms, GRADIENT_NOISE * math.hypot(*norms.values()), "gradient_norms")


@torch.no_grad()
def group_losses(r: Recorded, prefix: str, batch: Batch) -> dict[str, float]:
    """The loss of every group recorded under names that begin with ``prefix``."""
    groups = {name: r.groups.get(prefix + name, {}) for name in ("ret", "cap", "qa")}
    if not any(groups.values()):
        return {}
    losses = r.losses(batch, {name: own.values() for name, own in groups.items()})
    parts = {"ret": {"itc": ".itc", "itm": ".itm"}, "cap": {"cap": ""}, "qa": {"qa": ""}}
    return {f"{prefix}{name}.{spelling}{suffix}": float(losses[f"{part}.{group}"])
            for name, own in groups.items() for spelling, group in own.items() for part, suffix in parts[name].items()}


@torch.no_grad()
def compare_sequences(r: Recorded) -> Iterator[Row]:
    """A row per generated text: the number of ids, or of letters, that differ from the recorded ones."""
    memory = r.model.memory(r.model.encode(r.single, list(Modality)))
    made: dict[tuple[str, Group, int], list[list[int]]] = {}
    for name, group, beams in r.searches:
        kind = name.split(".")[0]
        search = (kind.removesuffix("_ids"), group, beams)
        if search not in made and search[0] == "cap":
            state = r.model.multimodal_encoder.start(memory, group)
            made[search] = beam_search(r.model.multimodal_encoder, state, r.tokenizer, beams, r.cfg.max_caption_len, 0.6)
        elif search not in made:
            made[search] = r.model.answer_ids(memory, group, r.texts("questions"), beam_size=beams)
        own: list[Any] = list(made[search]) if kind.endswith("_ids") else [r.tokenizer.decode(ids) for ids in made[search]]
        wanted = [until(row, r.tokenizer.sep) if kind.endswith("_ids") else row for row in r.golden["generated"][name]]
        for clip, (one, other) in enumerate(zip_longest(own, wanted, fillvalue="nothing")):
            yield compare_sequence(f"{name}[{clip}]", one, other)


CHECKS: tuple[Callable[[Recorded], Iterator[Row]], ...] = (compare_outputs, compare_losses, compare_sequences)


def read(folder: Path, device: torch.device | str = "cpu") -> tuple[str, Iterator[Row]]:
    """What the folder is, in a line, and its rows, computed as they are asked for. Raises FolderError, and what reading weights raises."""
    r = Recorded(folder, device)
    headline = (f"VAST, {len(r.frames)} clips, {sum(p.numel() for p in r.model.parameters()):,} parameters; checkpoint: nothing missing, "
                f"nothing unknown, {len(r.report.dropped)} tensors without use left out: "
                + ", ".join(f"{start}*" for start in UNUSED if any(begins(name, [start]) for name in r.report.dropped)))
    return headline, (row for check in CHECKS for row in check(r))
