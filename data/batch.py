"""What travels from the data to the model: one Sample per clip, one Batch per step. Every field's shape is stated here.

Letters: B clips, F frames, A audio slices, T mel frames of a slice, L text tokens, N texts. N = B in training; in
evaluation a clip may have several texts, and ``Texts.clip`` says which clip each belongs to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from omnivast.config.conversation import Conversation
from omnivast.config.tasks import CaptionKind, Modality, Task
from omnivast.data.spec import DataError

if TYPE_CHECKING:
    from omnivast.data.spec import ChatTokenizer, TextLengths, Tokenizer


@dataclass
class Sample:
    """One clip as read from disk, before collation. A list of texts has one entry in training, any number in evaluation."""

    clip_id: str
    index: int
    """Row of the clip in its annotation file."""
    frames: Tensor | None = None
    """(F, 3, H, W) uint8 RGB; None when the task needs no vision."""
    spectrogram: Tensor | None = None
    """(A, T, mel) float32, normalised; None when the task needs no audio."""
    subtitle: str | None = None
    """None when the task needs no subtitle; "" when the clip has none."""
    captions: dict[CaptionKind, list[str]] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    question_ids: list[str] = field(default_factory=list)
    question_types: list[str] = field(default_factory=list)
    answer_types: list[str] = field(default_factory=list)
    """Answers and these: one per question where the annotation has them, else empty. Only a test does without answers."""
    answer_weights: list[float] = field(default_factory=list)
    """Training on several answers to one question (VQAv2): the question stands once with each, and this is how much each counts; else
    empty."""
    conversations: list[Conversation] = field(default_factory=list)
    """For a model that learns conversations, what is said of the clip: of a caption, of questions, one for each group; in training
    always, in evaluation where the corpus is one of conversations."""
    row: dict[str, Any] | None = None
    """The whole row of a corpus of conversations."""
    features: dict[str, Tensor] = field(default_factory=dict)
    """What frozen towers found in the clip, name → (tokens, width) float16, in place of frames and spectrogram, where it is kept."""
    frame_count: int = 0
    slice_count: int = 0
    """How many frames and slices of sound stand in ``frames`` and ``spectrogram``, or were seen by the towers."""
    present: dict[Modality, bool] = field(default_factory=dict)
    """Whether the clip really has the modality (a silent video: audio False, its spectrogram zeros), for each that is asked for."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """(clip id, reason) of clips that this one replaced, in training."""
    negatives: list[str] = field(default_factory=list)
    """Training for retrieval: rejected captions, all that the row has."""
    told: str | None = None
    """For a text branch: title, description and subtitle, as far as the clip has them and training keeps them; None: none is read."""


@dataclass
class Texts:
    """Token ids of texts, padded to the longest of them (never beyond), [CLS] first and [SEP] last.

    They stay on the host: a model plans with their lengths, and sends to its device what it computes with.
    """

    ids: Tensor
    """(N, L) int64, padding 0."""
    mask: Tensor
    """(N, L) bool, True at tokens."""
    clip: Tensor
    """(N,) int64: the row of the batch that each text belongs to."""
    raw: list[str]
    """(N) the texts as written, for metrics and logs."""
    weights: Tensor | None = None
    """(N,) float32, of answers: how much each counts in the loss, where a clip's question has several; None: all the same."""

    def __len__(self) -> int:
        return self.ids.shape[0]


@dataclass
class Captions(Mapping[CaptionKind, Texts]):
    """The captions of a batch by kind. Kinds whose captions are the same texts have one source, in which they stand."""

    texts: dict[CaptionKind, Texts] = field(default_factory=dict)
    """Texts by the kind under which they are stored (their source)."""
    sources: dict[CaptionKind, CaptionKind] = field(default_factory=dict)
    """Kind → the source that holds the same texts."""

    def source(self, kind: CaptionKind) -> CaptionKind:
        """The kind under which the texts of ``kind`` are stored: itself, unless it shares those of another kind."""
        return self.sources.get(kind, kind)

    def of(self, kind: CaptionKind) -> Texts:
        """The texts of a kind. Raises ValueError where there are none."""
        if kind not in self:
            raise ValueError(f"the batch has no {kind.value} captions; it has {', '.join(k.value for k in self) or 'none'}")
        return self.texts[self.source(kind)]

    def __getitem__(self, kind: CaptionKind) -> Texts:
        return self.texts[self.source(kind)]

    def __iter__(self) -> Iterator[CaptionKind]:
        return iter({**self.texts, **self.sources})

    def __len__(self) -> int:
        return len({**self.texts, **self.sources})


@dataclass
class Chats:
    """Conversations about the clips of a batch. In training also as the model's template writes them; on the host, as texts are."""

    conversations: list[Conversation]
    """(N)"""
    clip: Tensor
    """(N,) int64: the row of the batch that each is about."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """(N) the rows that they were read from, in a corpus of conversations; else empty."""
    subtitles: list[str | None] = field(default_factory=list)
    """(N) the subtitle that is given with each; None: none is."""
    ids: list[list[int]] = field(default_factory=list)
    """(N) tokens of each, with one for all its media."""
    supervised: list[list[bool]] = field(default_factory=list)
    """(N) which of its tokens are learnt."""

    def __len__(self) -> int:
        return len(self.conversations)

    @property
    def learnt(self) -> int:
        """How many tokens are."""
        return sum(map(sum, self.supervised))


@dataclass
class Batch:
    """The clips of one step on one process, from one corpus."""

    corpus: str
    clip_ids: list[str]
    index: Tensor
    """(B,) int64: rows in the annotation file."""
    frames: Tensor | None = None
    """(B, F, 3, H, W) uint8; normalisation happens on the device."""
    spectrograms: Tensor | None = None
    """(B, A, T, mel) float32."""
    subtitles: Texts | None = None
    """N = B; a clip without a subtitle has [CLS] [SEP] alone."""
    captions: Captions = field(default_factory=Captions)
    questions: Texts | None = None
    answers: Texts | None = None
    """Aligned with ``questions``: answer n answers question n. None where a test has no answers."""
    chats: Chats | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    """Name → (B, tokens, width) float16 in place of frames and spectrograms, where features of frozen towers are kept; zeros for a clip
    without the track."""
    question_ids: list[str] = field(default_factory=list)
    question_types: list[str] = field(default_factory=list)
    answer_types: list[str] = field(default_factory=list)
    """Aligned with ``questions``; empty where the annotation has none."""
    present: dict[Modality, Tensor] = field(default_factory=dict)
    """(B,) bool per modality that the task needs; frames and spectrograms of clips without are zeros."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """(clip id, reason) of unreadable clips that were replaced while this batch was read."""
    negatives: Texts | None = None
    """Training for retrieval: the rejected captions of the clips, any number of each; None where no clip has one."""
    told: Texts | None = None
    """For a text branch, N = B: title, description and subtitle; a clip without has [CLS] [SEP] alone."""
    absent: dict[Modality, list[str]] = field(default_factory=dict, compare=False)
    """Ids of the clips that lack a modality that the task needs, as ``present`` says; here on the host, to be counted."""
    read_seconds: float = field(default=0.0, compare=False)
    """How long its reading and decoding took one process."""

    def __len__(self) -> int:
        return len(self.clip_ids)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The batch with its media on ``device``; texts and flags, which are planned with, stay on the host."""
        return self.map_media(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch with its media in page-locked memory (called by the DataLoader)."""
        return self.map_media(lambda t: t.pin_memory())

    def map_media(self, apply: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with ``apply`` of its frames and spectrograms, or of their features, in their place."""
        frames, spectrograms = (x if x is None else apply(x) for x in (self.frames, self.spectrograms))
        return dataclasses.replace(self, frames=frames, spectrograms=spectrograms,
                                   features={name: apply(x) for name, x in self.features.items()})


def told(title: str, description: str, subtitle: str) -> str:
    """The text that a text branch reads; "" where there is none."""
    parts = (("title", title), ("description", description), ("subtitle", subtitle))
    return " ".join(f"{name}: {text.strip()}" for name, text in parts if text.strip())


def corpus_of(batches: Iterable[Batch]) -> str:
    """The corpus that a step's batches are of; several are joined by a plus."""
    return "+".join(dict.fromkeys(batch.corpus for batch in batches))


def collate(samples: Sequence[Sample], *, corpus: str, tokenizer: Tokenizer, lengths: TextLengths, task: Task,
            training: bool = False) -> Batch:
    """Samples of one corpus → Batch: tensors stacked, texts tokenised and padded to the longest of the batch.

    Under the caption kinds that the task's groups need and a sample has not, its omni caption stands; where no sample has the kind and
    its captions may be as long as omni ones, the omni captions are its source.
    """
    batch = Batch(corpus, [sample.clip_id for sample in samples], torch.tensor([sample.index for sample in samples], dtype=torch.int64))
    batch.unreadable = [entry for sample in samples for entry in sample.unreadable]
    if not samples:
        return batch
    batch.frames = _stacked([sample.frames for sample in samples])
    batch.spectrograms = _stacked([sample.spectrogram for sample in samples])
    names = dict.fromkeys(name for sample in samples for name in sample.features)
    batch.features = {name: x for name in names if (x := _stacked([sample.features.get(name) for sample in samples])) is not None}
    if samples[0].subtitle is not None:
        batch.subtitles = make_texts([[sample.subtitle or ""] for sample in samples], tokenizer, lengths.subtitle)
    if samples[0].told is not None:
        batch.told = make_texts([[sample.told or ""] for sample in samples], tokenizer, lengths.told)
    batch.captions = _collate_captions(samples, tokenizer, lengths, task)
    if any(sample.negatives for sample in samples):
        batch.negatives = make_texts([sample.negatives for sample in samples], tokenizer, lengths.caption[CaptionKind.OMNI])
    if any(sample.questions for sample in samples):
        batch.questions = make_texts([sample.questions for sample in samples], tokenizer, lengths.question)
        if any(sample.answers for sample in samples):
            batch.answers = make_texts([sample.answers for sample in samples], tokenizer, lengths.answer)
            if any(sample.answer_weights for sample in samples):
                weights = [sample.answer_weights or [1.0] * len(sample.answers) for sample in samples]
                batch.answers.weights = torch.tensor([weight for own in weights for weight in own])
        batch.question_ids = _aligned(samples, [sample.question_ids for sample in samples])
        batch.question_types = _aligned(samples, [sample.question_types for sample in samples])
        batch.answer_types = _aligned(samples, [sample.answer_types for sample in samples])
    if any(sample.conversations for sample in samples):
        batch.chats = _collate_chats(samples, corpus, cast("ChatTokenizer", tokenizer), training)
    asked = [modality for modality in Modality if any(modality in sample.present for sample in samples)]
    batch.present = {modality: torch.tensor([sample.present.get(modality, False) for sample in samples]) for modality in asked}
    batch.absent = {modality: [sample.clip_id for sample in samples if not sample.present.get(modality, True)]
                    for modality in batch.present}
    return batch


def _stacked(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Zeros where a clip has none, because its conversation is about other tracks; None where no clip has any."""
    first = next((part for part in parts if part is not None), None)
    return None if first is None else torch.stack([torch.zeros_like(first) if part is None else part for part in parts])


def subtitle_given(sample: Sample, conversation: Conversation) -> str | None:
    """The subtitle that is given with a conversation about a clip; None: none is."""
    return sample.subtitle if Modality.SUBTITLE in conversation.modalities else None


def written_as_read(tokenizer: ChatTokenizer, sample: Sample, conversation: Conversation, frames: int, slices: int, where: str) -> Any:
    """A conversation about a clip of so many frames and slices of sound, as the model reads it (``ids``, ``supervised``). Raises
    DataError, which names ``where``."""
    seen, heard = (modality in conversation.modalities for modality in (Modality.VISION, Modality.AUDIO))
    try:
        return tokenizer.converse(conversation, subtitle_given(sample, conversation), frames * seen, slices * heard, where)
    except ValueError as error:
        raise DataError(str(error)) from None


def _collate_chats(samples: Sequence[Sample], corpus: str, tokenizer: ChatTokenizer, training: bool) -> Chats:
    """In training each conversation is written as the model reads it. Raises DataError, naming the row, for one that cannot be."""
    spoken = [(place, sample, conversation) for place, sample in enumerate(samples) for conversation in sample.conversations]
    chats = Chats([conversation for _, _, conversation in spoken], torch.tensor([place for place, _, _ in spoken], dtype=torch.int64))
    chats.rows = [sample.row for _, sample, _ in spoken if sample.row is not None]
    chats.subtitles = [subtitle_given(sample, conversation) for _, sample, conversation in spoken]
    for _, sample, conversation in spoken:
        if training:
            written = written_as_read(tokenizer, sample, conversation, sample.frame_count, sample.slice_count,
                                      f"dataset '{corpus}': row {sample.index} (id '{sample.clip_id}')")
            chats.ids.append(written.ids)
            chats.supervised.append(written.supervised)
    return chats


def make_texts(per_clip: Sequence[Sequence[str]], tokenizer: Tokenizer, max_length: int) -> Texts:
    """The texts of each clip → Texts, padded to the longest of them."""
    raw = [text for texts in per_clip for text in texts]
    clip = torch.tensor([row for row, texts in enumerate(per_clip) for _ in texts], dtype=torch.int64)
    encoded = tokenizer.encode(raw, max_length) if raw else []
    ids = torch.full((len(raw), max(map(len, encoded), default=0)), tokenizer.pad, dtype=torch.int64)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        mask[row, : len(tokens)] = True
    return Texts(ids, mask, clip, raw)


def _collate_captions(samples: Sequence[Sample], tokenizer: Tokenizer, lengths: TextLengths, task: Task) -> Captions:
    captions = Captions()
    for kind in CaptionKind:
        if any(kind in sample.captions for sample in samples):
            texts = [sample.captions.get(kind) or sample.captions.get(CaptionKind.OMNI, []) for sample in samples]
            captions.texts[kind] = make_texts(texts, tokenizer, lengths.caption[kind])
    if CaptionKind.OMNI in captions:
        for kind in dict.fromkeys(group.caption_kind for group in task.all_groups):
            if kind in captions:
                continue
            if lengths.caption[kind] == lengths.caption[CaptionKind.OMNI]:
                captions.sources[kind] = CaptionKind.OMNI
            else:  # cut as where another sample has the kind: a text must not depend on what else is in the batch
                omni = [sample.captions.get(CaptionKind.OMNI, []) for sample in samples]
                captions.texts[kind] = make_texts(omni, tokenizer, lengths.caption[kind])
    return captions


def _aligned(samples: Sequence[Sample], values: Iterable[list[str]]) -> list[str]:
    """Values per question; empty where no sample has them, "" where only some lack them."""
    filled = [texts or [""] * len(sample.questions) for sample, texts in zip(samples, values)]
    joined = [value for texts in filled for value in texts]
    return joined if any(joined) else []
