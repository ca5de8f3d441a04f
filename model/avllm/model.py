"""Audio-Visual LLM (Shu et al., Audio-Visual LLM for Video Understanding, arXiv:2312.06720): a language model before whose words stand
projected tokens of frozen vision and audio towers.

Letters: B clips, F frames, K slices of sound, S tokens of one of them, W width of a tower, N conversations, L columns of the language
model's input, D its width, M words that are learnt.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivast.config.conversation import Conversation, answering, asking, captioning
from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Modality, Objective, Task
from omnivast.model.avllm.features import ClipFeatures
from omnivast.model.avllm.generate import generate
from omnivast.model.avllm.layout import Layout, lay_out, passes, scattered
from omnivast.model.avllm.mark import LanguageModelMark, fingerprint, leave_out_frozen
from omnivast.model.avllm.projectors import PARTS, Projectors, pooled_frames, pooled_slices
from omnivast.model.avllm.template import MEDIA, ChatTemplate
from omnivast.model.avllm.tokenizer import ConversationTokenizer, MediaTokens
from omnivast.model.avllm.tuning import save_adapter, save_merged, tuned
from omnivast.model.encoders.base import Encoder
from omnivast.model.encoders.build import build_audio, build_vision
from omnivast.model.interface import MODELS, Model, ModelError, Names, Reward, Unit, blocks_of
from omnivast.model.text.llm import context_of, load_llm
from omnivast.model.towers import MediaModel, needed
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import on_host, planning, send

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Chats, Texts

log = logging.getLogger("omnivast")
BESIDE_TOWERS = ("multimodal_encoder.", "contra_", "itm_head.", "hidden_trans_", "vision_frame_embedding", "audio_frame_embedding",
                 "vision_type_embeddings", "audio_type_embeddings", "subtitle_type_embeddings")
"""Starts of names of what a VAST has beside the towers."""


@MODELS.register("avllm")
class AudioVisualLLM(MediaModel):
    """Frozen towers, projectors, and a language model that is frozen, adapted or trained."""

    names = Names(own=("projectors.",), apart=("llm.", "llm_mark.", "projectors."), unused=BESIDE_TOWERS)
    towers_from = ("vast", "gram")
    objectives = (Objective.CAPTION, Objective.QA, Objective.CHAT)
    conversations = True
    text_tower = False
    tokenizer: ConversationTokenizer

    def __init__(self, config: ModelConfig, llm: Any, words: Any) -> None:
        """``llm``: a causal language model of transformers; ``words``: its tokenizer."""
        super().__init__()
        self.config = config
        template = ChatTemplate(words, config.llm_template)
        self.llm_mark = LanguageModelMark(llm)
        self.llm: Any = tuned(llm, config)
        if config.vision_encoder_type is not None:
            self.vision_encoder = build_vision(config)
            for name, value in zip(("pixel_mean", "pixel_std"), self.vision_encoder.pixel_statistics()):
                self.register_buffer(name, value, persistent=False)
        if config.audio_encoder_type is not None:
            self.audio_encoder = build_audio(config)
        widths = {part: getattr(self, f"{modality.word}_encoder").width for part, modality in PARTS.items()
                  if hasattr(self, f"{modality.word}_encoder")}
        length = llm.get_input_embeddings().weight.detach().float().norm(dim=1).mean() if config.llm_normalise else None
        self.projectors = Projectors(widths, self.width, config.llm_projector, config.llm_boundary_tokens, length)
        self.configure()
        leave_out_frozen(self, "llm.")
        self.tokenizer = ConversationTokenizer(template, context_of(llm, config), config.llm_cut_long_rows, self._media_tokens())

    @classmethod
    def build(cls, cfg: ModelConfig) -> AudioVisualLLM:
        """Raises ModelError, EncoderError, TemplateError."""
        return cls(cfg, *load_llm(cfg))

    # ------------------------------------------------------------------------------------------------------------ its parts

    def _media_towers(self) -> list[tuple[Encoder, bool]]:
        """Both towers are always frozen."""
        return [(tower, True) for tower, _ in super()._media_towers()]

    def _media_tokens(self) -> MediaTokens:
        """How many tokens media take, by one frame and one slice of silence through the towers."""
        self.eval()
        cfg, patches, slice_tokens = self.config, 0, 0
        if hasattr(self, "vision_encoder"):
            patches = self._seen(self._no_frame())["spatial"].shape[1]
            if not self.vision_encoder.has_cls:
                log.info("vision encoder '%s' has no [CLS]: the temporal token of a frame is the mean of its patches",
                         cfg.vision_encoder_type)
        if hasattr(self, "audio_encoder"):
            slice_tokens = self._heard(self._no_sound())["auditory"].shape[1]
        return MediaTokens(patches, slice_tokens, 2 * cfg.llm_boundary_tokens)

    def set_checkpointing(self, on: bool) -> None:
        """The language model alone has activations to keep."""
        word = "activation" if hasattr(self.llm, "activation_checkpointing_enable") else "gradient"  # the library's old name for it
        if on:
            getattr(self.llm, f"{word}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.llm, f"{word}_checkpointing_disable")()

    def train(self, mode: bool = True) -> AudioVisualLLM:
        """A frozen language model stays in evaluation mode: no dropout; but its layers recompute in training alone."""
        super().train(mode)
        if self.config.llm_tune == "projectors":
            self.llm.eval()
            for block in blocks_of(self.llm):
                block.training = mode
        return self

    def units(self) -> Iterator[Unit]:
        """The blocks of the towers, and those of the language model, whose input is of another size each time."""
        yield from super().units()
        yield from (Unit(block, compiles=False) for block in blocks_of(self.llm))

    def check_task(self, task: Task) -> None:
        """Raise ValueError for a track without a tower, and for subtitles that no prompt would have."""
        super().check_task(task)
        asking_for = next((group for group in task.all_groups if Modality.SUBTITLE in group), None)
        if asking_for is not None and self.config.llm_subtitle == "none":
            raise ValueError(f"task '{task}': group {asking_for} gives the subtitle, as text before the first question; set "
                             "model_cfg.llm_subtitle to prompt")

    @property
    def width(self) -> int:
        return self.llm.get_input_embeddings().embedding_dim

    def learn_from_reward(self, reward: Reward, **settings: Any) -> None:
        Model.learn_from_reward(self, reward, **settings)

    # ------------------------------------------------------------------------------------------------------------- encoding

    def encode(self, batch: Batch, modalities: Sequence[Modality]) -> ClipFeatures:
        """What the towers find in the clips that have each track."""
        said = tuple(batch.subtitles.raw) if Modality.SUBTITLE in modalities and batch.subtitles is not None else ()
        if batch.features:
            return ClipFeatures({part: x.float() for part, x in batch.features.items()}, batch.present, said, tuple(batch.clip_ids))
        parts: dict[str, Tensor] = {}
        present: dict[Modality, Tensor] = {}
        for modality, media in ((Modality.VISION, batch.frames), (Modality.AUDIO, batch.spectrograms)):
            if modality not in modalities:
                continue
            if media is None:
                self._stay_in_step(modality)
                continue
            with planning():
                present[modality] = batch.present.get(modality, torch.ones(len(batch), dtype=torch.bool)).cpu()
            own = on_host(present[modality]).nonzero()[0]
            if not len(own):
                self._stay_in_step(modality)
                continue
            every, rows = len(own) == len(batch), send(own, media.device)
            given = media if every else media[rows]
            for part, found in (self._seen(given) if modality is Modality.VISION else self._heard(given)).items():
                parts[part] = found if every else found.new_zeros(len(batch), *found.shape[1:]).index_copy(0, rows, found)
        return ClipFeatures(parts, present, said, tuple(batch.clip_ids))

    def tower_keys(self) -> dict[Modality, str]:
        settings = {Modality.VISION: self.config.llm_vision_layer, Modality.AUDIO: self.config.llm_audio_pool}
        return {modality: f"{fingerprint(getattr(self, f'{modality.word}_encoder')).hex()} {setting} {self.precision}"
                for modality, setting in settings.items() if hasattr(self, f"{modality.word}_encoder")}

    def tower_features(self, batch: Batch, modality: Modality) -> dict[str, Tensor]:
        if modality is Modality.VISION:
            return self._seen(needed(batch.frames, "frames"))
        return self._heard(needed(batch.spectrograms, "spectrograms"))

    def _stay_in_step(self, modality: Modality) -> None:
        """Run the tower of a track that no clip has, where other processes need that."""
        if self.in_step and modality is Modality.VISION:
            self._seen(self._no_frame())
        elif self.in_step:
            self._heard(self._no_sound())

    def _no_frame(self) -> Tensor:
        """(1, 1, 3, H, W) of black."""
        side = self.config.vision_resolution
        return torch.zeros(1, 1, 3, side, side, dtype=torch.uint8, device=self.device)

    def _no_sound(self) -> Tensor:
        """(1, 1, T, mel) of nothing."""
        return torch.zeros(1, 1, self.config.audio_target_length, self.config.audio_melbins, device=self.device)

    @torch.no_grad()
    def _seen(self, frames: Tensor) -> dict[str, Tensor]:
        """(B, F, 3, H, W) → the parts of vision."""
        with self.mixed():
            tokens = self._layer(frames)
            return pooled_frames(tokens, self.vision_encoder.has_cls)

    @torch.no_grad()
    def _heard(self, spectrograms: Tensor) -> dict[str, Tensor]:
        """(B, K, T, mel) → the part of sound."""
        with self.mixed():
            return pooled_slices(self.audio_tokens(spectrograms), self.config.llm_audio_pool)

    def _layer(self, frames: Tensor) -> Tensor:
        """(B, F, 3, H, W) → (B, F, S, W) of the vision tower's layer ``llm_vision_layer``."""
        if self.config.llm_vision_layer == -1:
            return self.vision_tokens(frames)
        blocks, kept = blocks_of(self.vision_encoder), cast(list[Any], [])
        if len(blocks) < 2:
            raise ModelError(f"model_cfg.llm_vision_layer -2: vision encoder '{self.config.vision_encoder_type}' has no layer before its "
                             "last; set it to -1")
        handle = blocks[-2].register_forward_hook(lambda block, given, output: kept.append(output))
        try:
            last = self.vision_tokens(frames)
        finally:
            handle.remove()
        tokens, has_cls = kept[-1], int(self.vision_encoder.has_cls)
        fits = isinstance(tokens, Tensor) and tokens.ndim == 3 and len(tokens) == last.shape[0] * last.shape[1]
        extra = tokens.shape[1] - last.shape[2] if fits else -1  # registers, which towers leave out at their end
        if not fits or extra < 0 or tokens.shape[2] != last.shape[3]:
            raise ModelError(f"model_cfg.llm_vision_layer -2: the layer before the last of vision encoder "
                             f"'{self.config.vision_encoder_type}' has other tokens than the last; set it to -1")
        tokens = torch.cat([tokens[:, :has_cls], tokens[:, has_cls + extra:]], 1) if extra else tokens
        return tokens.unflatten(0, last.shape[:2])

    # ------------------------------------------------------------------------------------------------------------- training

    def loss_weight(self, batch: Batch) -> float | None:
        """Words that are learnt."""
        return float(needed(batch.chats, "conversations").learnt)

    def forward(self, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
        """"loss": the mean over the words that are learnt."""
        chats = needed(batch.chats, "conversations")
        features = self.encode(batch, task.modalities)
        with self.mixed():
            loss = self._summed_loss(chats, features)
        return {"loss": loss / chats.learnt}

    def _summed_loss(self, chats: Chats, features: ClipFeatures) -> Tensor:
        """The sum over the words that are learnt of their cross-entropies."""
        clips = on_host(chats.clip).tolist()
        with planning():
            parts = [self._parts_of(conversation, clip, features) for conversation, clip in zip(chats.conversations, clips)]
        lengths = [len(ids) + sum(own.values()) for ids, own in zip(chats.ids, parts)]
        losses = []
        for together in [list(range(len(lengths)))] if self.in_step else passes(lengths):
            with planning():
                layout = lay_out([chats.ids[n] for n in together], [parts[n] for n in together], [chats.supervised[n] for n in together])
                places, words = F.pad(layout.learnt[:, 1:], (0, 1)), layout.ids[layout.learnt]
            inputs = self._inputs(layout, features, [clips[n] for n in together])
            logits = self._logits(inputs, places)
            losses.append(F.cross_entropy(logits.float(), send(on_host(words), logits.device), reduction="sum"))
        return torch.stack(losses).sum()

    def _parts_of(self, conversation: Conversation, clip: int, features: ClipFeatures) -> dict[str, int]:
        """The parts that a conversation about a clip has → how many tokens they take."""
        lengths = self.projectors.lengths(features.parts)
        return {part: length for part, length in lengths.items()
                if PARTS[part] in conversation.modalities and features.has(PARTS[part], clip)}

    def _inputs(self, layout: Layout, features: ClipFeatures, clips: Sequence[int]) -> Tensor:
        """(N, L, D): the words and media of conversations about ``clips`` (N)."""
        words = self.llm.get_input_embeddings()(send(on_host(layout.ids), self.device))
        with planning():
            clip, none = torch.tensor(clips, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
            of_parts = {part: clip[layout.parts[part][0]] if part in layout.parts else none for part in PARTS}
        return scattered(words, layout, self.projectors(features.parts, of_parts))

    def _logits(self, inputs: Tensor, places: Tensor) -> Tensor:
        """(N, L, D) and places (N, L) bool → (M, words), of the places alone. What is empty stands behind each conversation, where nothing
        before it attends to: no mask is needed."""
        rows, columns = send(on_host(places).nonzero(), inputs.device)
        head = cast(nn.Module, self.llm.get_output_embeddings())
        handle = head.register_forward_pre_hook(lambda _, given: (given[0][rows, columns],))
        try:
            return self.llm(inputs_embeds=inputs, use_cache=False).logits
        finally:
            handle.remove()

    # ----------------------------------------------------------------------------------------------------------- generation

    length_penalty = 1.0

    def reply(self, memory: ClipFeatures, conversations: Sequence[Conversation], clips: Sequence[int], *, beam_size: int,
              max_length: int) -> list[str]:
        return [texts[0] for texts in self._replies(memory, conversations, clips, max_length, beams=beam_size)]

    def answer(self, memory: ClipFeatures, group: Group, questions: Texts, *, beam_size: int) -> list[str]:
        conversations = [asking(question, group) for question in questions.raw]
        return self.reply(memory, conversations, questions.clip.tolist(), beam_size=beam_size, max_length=self.config.max_answer_len)

    def answer_scores(self, memory: ClipFeatures, group: Group, questions: Texts, answers: Sequence[str]) -> list[float] | None:
        conversations = [answering([question], [answer], group) for question, answer in zip(questions.raw, answers)]
        return self.reply_scores(memory, conversations, questions.clip.tolist())

    def reply_scores(self, memory: ClipFeatures, conversations: Sequence[Conversation], clips: Sequence[int]) -> list[float]:
        """The log-probability of the last answer of each conversation about a clip of ``memory``, its end included."""
        written = [self.tokenizer.template.encode(conversation, self._said_in(memory, conversation, clip), self._name(memory, clip))
                   for conversation, clip in zip(conversations, clips)]
        begins = [len(self._prompt(memory, conversation.asking(len(conversation.answers) - 1), clip))
                  for conversation, clip in zip(conversations, clips)]
        scores = []
        for own, begin, conversation, clip in zip(written, begins, conversations, clips):
            learnt = [number >= begin and is_learnt for number, is_learnt in enumerate(own.supervised)]
            layout = lay_out([own.ids], [self._parts_of(conversation, clip, memory)], [learnt])
            with torch.no_grad(), self.mixed():
                logits = self._logits(self._inputs(layout, memory, [clip]), F.pad(layout.learnt[:, 1:], (0, 1))).float()
            scores.append(-float(F.cross_entropy(logits, layout.ids[layout.learnt].to(logits.device), reduction="sum")))
        return scores

    def best_captions(self, memory: ClipFeatures, group: Group, *, beam_size: int, max_length: int, length_penalty: float = 1.0,
                      ) -> list[list[str]]:
        return self._replies(memory, [captioning(group)] * len(memory), range(len(memory)), max_length, beams=beam_size,
                             texts=beam_size, length_penalty=length_penalty)

    def sample_captions(self, memory: ClipFeatures, group: Group, *, draws: Tensor, top_k: int = 10) -> list[list[str]]:
        return self._replies(memory, [captioning(group)] * len(memory), range(len(memory)), draws.shape[2], texts=draws.shape[1],
                             draws=draws, top_k=top_k)

    def _replies(self, memory: ClipFeatures, conversations: Sequence[Conversation], clips: Sequence[int], longest: int,
                 **search: Any) -> list[list[str]]:
        """The texts that a search finds behind each conversation about a clip of ``memory``; see :func:`generate`."""
        prompts = [self._prompt(memory, conversation, clip) for conversation, clip in zip(conversations, clips)]
        parts = [self._parts_of(conversation, clip, memory) for conversation, clip in zip(conversations, clips)]
        lengths = [len(ids) - ids.count(MEDIA) + sum(own.values()) for ids, own in zip(prompts, parts)]
        if max(lengths, default=0) >= self.tokenizer.context:
            clip = clips[lengths.index(max(lengths))]
            raise ModelError(f"clip '{memory.clip_ids[clip]}': the conversation has {max(lengths):,} tokens with its media, which leaves "
                             f"no room for an answer: the language model reads {self.tokenizer.context:,} (model_cfg.llm_context)")

        def embed(numbers: list[int]) -> tuple[Tensor, Tensor]:
            layout = lay_out([prompts[n] for n in numbers], [parts[n] for n in numbers], left=True)
            return self._inputs(layout, memory, [clips[n] for n in numbers]), layout.filled.to(self.device)

        with torch.no_grad(), self.mixed():
            found = generate(self.llm, lengths, embed, end=self.tokenizer.template.end, longest=longest, **search)
        return [[self.tokenizer.decode(ids) for ids in texts] for texts in found]

    def _prompt(self, memory: ClipFeatures, conversation: Conversation, clip: int) -> list[int]:
        return self.tokenizer.template.prompt(conversation, self._said_in(memory, conversation, clip), self._name(memory, clip))

    def _said_in(self, memory: ClipFeatures, conversation: Conversation, clip: int) -> str | None:
        """The subtitle that is given with a conversation."""
        return memory.subtitles[clip] if memory.subtitles and Modality.SUBTITLE in conversation.modalities else None

    def _name(self, memory: ClipFeatures, clip: int) -> str:
        return f"clip '{memory.clip_ids[clip]}'"

    def state_to_share(self) -> dict[str, Tensor]:
        state = self.state_dict()
        if self.config.llm_tune != "full":
            return state
        mark = torch.tensor(list(fingerprint(self.llm)), dtype=torch.uint8)
        return {name: tensor for name, tensor in state.items() if not name.startswith("llm.")} | {"llm_mark.mark": mark}

    def export_language_model(self, folder: str | Path, *, whole: bool) -> Path:
        """See interface.py. Raises ModelError for an adapter where there is none."""
        return save_merged(self.llm, self.tokenizer.template.tokenizer, folder) if whole else save_adapter(self.llm, folder)
