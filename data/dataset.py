"""An annotation file and its media → Samples. Every draw is a function of (seed, corpus, position) alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from omnivast.config.conversation import Conversation, answering, captioning
from omnivast.config.registry import Registry
from omnivast.config.schema import DatasetConfig, task_of
from omnivast.config.tasks import OF_CAPTIONS, CaptionKind, Group, Modality, Objective, Task, TaskError
from omnivast.data.annotations.by_id import load_by_id
from omnivast.data.annotations.identity import Identity, identity
from omnivast.data.annotations.load import load_annotations
from omnivast.data.annotations.rows import Row
from omnivast.data.annotations.table import Annotations
from omnivast.data.batch import Sample, told
from omnivast.data.conversation import read_conversation
from omnivast.data.media import deadline
from omnivast.data.media.deadline import DeadlineError, within
from omnivast.data.media.errors import MediaError
from omnivast.data.media.reader import FIRST_CLIPS_CHECKED, ClipMedia, ClipReader
from omnivast.data.shards.shard_set import Shards, gather_texts, open_shards
from omnivast.data.spec import DataError, InputSpec, UnreadableError
from omnivast.utils.random import generator

MAX_REPLACEMENTS = 20
ASKED = ("questions", "answers", "question_ids", "question_types", "answer_types")
Drawn = TypeVar("Drawn")
LOOKED_FOR = 10_000
"""Clips of a dataset that are looked up by name before a run; for each, a folder is asked once or twice."""

logger = logging.getLogger("omnivast")


@dataclass(frozen=True)
class Opened:
    """Where the clips and the texts of a corpus are."""

    annotations: Callable[[Task, bool], Annotations]
    """Reads and checks its rows for a task; the second argument: rows may be without captions. Raises AnnotationError."""
    shards: Shards | None = None
    """What holds its media; None: they lie in folders."""


Opener = Callable[[DatasetConfig, bool], Opened]
CORPORA: Registry[Opener] = Registry("type", "kind of dataset", error=DataError)
"""``type`` → what opens a corpus, for training or not."""


@CORPORA.register("annoindexed")
def _in_folders(config: DatasetConfig, training: bool) -> Opened:
    if not config.txt:
        raise DataError(f"dataset '{config.name}': give the annotation file as 'txt'")
    return Opened(lambda task, optional: load_annotations(config.txt, task, training=training, ignore_fields=config.ignore_fields,
                                                          captions_optional=optional))


@CORPORA.register("srcindexed")
def _in_shards(config: DatasetConfig, training: bool) -> Opened:
    shards = open_shards(config.name, config.shards, training=training)

    def annotations(task: Task, optional: bool) -> Annotations:
        txt = config.txt or gather_texts(config.name, shards, config.ignore_fields, optional)
        return load_annotations(txt, task, training=training, ignore_fields=config.ignore_fields, captions_optional=optional)

    return Opened(annotations, shards)


@CORPORA.register("valor")
def _by_id(config: DatasetConfig, training: bool) -> Opened:
    if not (config.ids_path and config.txt):
        raise DataError(f"dataset '{config.name}': type valor needs 'ids_path', the list of ids, and 'txt', the object of their texts")
    return Opened(lambda task, optional: load_by_id(config.ids_path or "", config.txt, task, training=training,
                                                    first_alone=config.test_one, ignore_fields=config.ignore_fields,
                                                    captions_optional=optional))


def opener(config: DatasetConfig) -> Opener:
    """What opens a dataset. Raises DataError for a ``type`` that is not known."""
    try:
        return CORPORA.find(config.type)
    except DataError as error:
        raise DataError(f"dataset '{config.name}': {error}") from None


class IndexedDataset:
    """One corpus: an annotation file, and media where its ``type`` says, in folders or in tar shards."""

    def __init__(self, config: DatasetConfig, spec: InputSpec, *, seed: int, training: bool) -> None:
        """Reads and checks the annotations and the folders or shards. Raises DataError or AnnotationError."""
        self.config, self.training, self.seed, self.name = config, training, seed, config.name
        try:
            self.task = task_of(config)
        except TaskError as error:
            raise DataError(f"dataset '{config.name}': {error}") from None
        opened = opener(config)(config, training)
        self.shards = opened.shards
        optional = not training and (spec.captioner_mode or config.annfile is not None)
        if spec.features is not None and config.vision_transforms != "none":
            raise DataError(f"dataset '{config.name}': features_dir keeps what the towers find in whole frames, so vision_transforms "
                            f"'{config.vision_transforms}' would have no effect; use 'none', or no features_dir")
        self._draws_media = training and spec.features is None
        self.reader = ClipReader(config, self.task, spec, training=self._draws_media, shards=self.shards)
        self._readers: dict[frozenset[Modality], ClipReader] = {frozenset(self.reader.tracks): self.reader}
        self._spec, self._converses = spec, spec.conversations and training
        self.annotations = opened.annotations(self.task, optional)
        self._learns_negatives = training and bool(self.annotations.with_negatives) and bool(self.task.groups(Objective.RETRIEVAL))
        if self._learns_negatives and not spec.negatives:
            raise DataError(f"dataset '{config.name}': rows of {self.annotations.path} have rejected captions ('negatives'), from which "
                            'VAST and GRAM learn, and this model_type does not; leave them unread with "ignore_fields": ["negatives"]')
        if self.shards is not None and not config.txt and len(self) < len(self.shards):
            logger.error("dataset '%s': %d clips have no texts, since their shards are cut, and are left out", self.name,
                         len(self.shards) - len(self))
        for reader, clip_ids in self._by_reader(range(min(FIRST_CLIPS_CHECKED, len(self)))):
            reader.check_exists(clip_ids)
        self._say_what_is_not_used()
        self.lengths = spec.lengths(self.annotations.several_kinds)
        self._needed = {group.caption_kind for group in self.task.all_groups}

    def __len__(self) -> int:
        return len(self.annotations)

    def identity(self) -> Identity:
        """What it consists of, to be compared when a training goes on."""
        return identity(self.annotations, self.shards)

    def _say_what_is_not_used(self) -> None:
        """Log which clips will be silent or lie in no shard, and how many of the shards have no row. Of large sets ``LOOKED_FOR`` clips
        are looked up, evenly spread: a training counts the silent ones as it reads them."""
        number = min(len(self), LOOKED_FOR)
        rows = range(len(self)) if number == len(self) else [place * len(self) // number for place in range(number)]
        clip_ids = [self.annotations[row].clip_id for row in rows]
        for reader, own in self._by_reader(rows):
            reader.say_what_is_silent(own)
            reader.say_what_rate(own)
        if self.shards is None or not self.config.txt:
            return
        absent = [clip_ids[place] for place in (self.shards.shards_of(clip_ids) < 0).nonzero()[0]]
        if absent:
            logger.warning("dataset '%s': %d of %d clips lie in no shard, '%s' first", self.name, len(absent), number, absent[0])
        unused = len(self.shards) - len({*clip_ids} - {*absent})
        if unused > 0 and number == len(self):
            logger.info("dataset '%s': %d of the %d clips of its shards have no row in %s and are left out", self.name, unused,
                        len(self.shards), self.config.txt)

    def shard_numbers(self) -> torch.Tensor | None:
        """(rows,) the shard of each row where the config asks for few shards at a time; rows that no shard has stand with the first."""
        if self.shards is None or not self.config.shuffle_shards:
            return None
        return torch.from_numpy(self.shards.shards_of(self.annotations.ids())).clamp(min=0)

    def sample(self, position: int, row: int) -> Sample:
        """Training: the clip of ``row`` with the draws of ``position``. An unreadable clip is replaced by the next that can be
        read, and listed in the sample. Raises UnreadableError after ``MAX_REPLACEMENTS`` in a row."""
        unreadable: list[tuple[str, str]] = []
        for step in range(min(MAX_REPLACEMENTS + 1, len(self))):
            result = self.read(position, (row + step) % len(self))
            if isinstance(result, Sample):
                result.unreadable = unreadable
                return result
            unreadable.append(result)
        raise UnreadableError.of(self.name, unreadable, "no readable clip among these neighbours; check the media folder and its files")

    def read(self, position: int, row: int) -> Sample | tuple[str, str]:
        """The clip of ``row``, or (clip id, reason) where its media cannot be read."""
        annotation = self.annotations[row]
        spoken = self._row_conversation(annotation)
        reader = self._reader_for(spoken)
        try:
            sample, has = self._given(reader, annotation.clip_id, row, position)
        except MediaError as error:
            return annotation.clip_id, str(error)
        has[Modality.SUBTITLE] = bool((annotation.subtitle or "").strip())
        asked = self.task.modalities if spoken is None else spoken.modalities
        sample.present = {modality: has[modality] for modality in self.task.modalities if modality in asked}
        self._add_texts(sample, annotation, position)
        sample.row = annotation.chat
        sample.conversations = [spoken] if spoken else [*self._conversations(annotation, position)]
        return sample

    def _given(self, reader: ClipReader, clip_id: str, row: int, position: int) -> tuple[Sample, dict[Modality, bool]]:
        """A sample with the clip's media, or with the features that are kept of them, and which tracks it has. Raises MediaError."""
        if self._spec.features is None:
            clip = self._media(reader, clip_id, position)
            sample = Sample(clip_id, row, frames=clip.frames, spectrogram=clip.spectrogram)
            sample.frame_count = 0 if clip.frames is None else len(clip.frames)
            sample.slice_count = len(clip.spectrogram) if clip.has_sound and clip.spectrogram is not None else 0
            return sample, {Modality.VISION: clip.frames is not None, Modality.AUDIO: clip.has_sound}
        sample, has = Sample(clip_id, row), {Modality.VISION: False, Modality.AUDIO: False}
        for modality, read_as in reader.read_as(clip_id).items():
            found = self._spec.features.read(modality, read_as)
            if found is None:
                raise MediaError(clip_id, f"its features of {modality.word} are not in {self._spec.features.folder}; either it cannot be "
                                          "read, or it changed: start the run again, which computes them")
            has[modality] = bool(found)
            sample.features.update(found)
        sample.frame_count = (self.config.vision_sample_num or 0) * has[Modality.VISION]
        sample.slice_count = (self.config.audio_sample_num or 0) * has[Modality.AUDIO]
        return sample, has

    def reader_of(self, row: int) -> ClipReader:
        """What reads the clip of a row: of one of a conversation, the tracks that it is about alone."""
        if Objective.CHAT not in self.task.objectives:
            return self.reader
        return self._reader_for(self._row_conversation(self.annotations[row]))

    def _reader_for(self, conversation: Conversation | None) -> ClipReader:
        if conversation is None:
            return self.reader
        tracks = frozenset(conversation.modalities & self.reader.tracks)
        if tracks not in self._readers:
            task = Task(((Objective.CHAT, (Group(tuple(m for m in Modality if m in tracks)),)),))
            self._readers[tracks] = ClipReader(self.config, task, self._spec, training=self._draws_media, shards=self.shards)
        return self._readers[tracks]

    def _by_reader(self, rows: Iterable[int]) -> list[tuple[ClipReader, list[str]]]:
        """The clips of some rows by what reads them; nothing for those without media."""
        found: dict[ClipReader, list[str]] = {}
        for row in rows:
            reader = self.reader_of(row)
            found.setdefault(reader, []).append(self.annotations[row].clip_id)
        return [(reader, clip_ids) for reader, clip_ids in found.items() if reader.tracks]

    def _row_conversation(self, row: Row) -> Conversation | None:
        """The conversation that a row holds; None for one of captions or questions."""
        return None if row.chat is None else read_conversation(row.chat, f"id '{row.clip_id}'", self.task.modalities)

    def row_conversations(self) -> Iterator[Conversation | None]:
        """Of every row the conversation that it holds; None for one of captions or questions."""
        return map(self._row_conversation, self.annotations)

    def media(self, row: int, position: int) -> ClipMedia:
        """Frames and sound of the clip of a row. Raises MediaError, also where reading takes longer than a clip may."""
        return self._media(self.reader_of(row), self.annotations[row].clip_id, position)

    def _media(self, reader: ClipReader, clip_id: str, position: int) -> ClipMedia:
        try:
            return within(deadline.SECONDS_PER_CLIP, reader.read, clip_id, self._key(position))
        except DeadlineError as error:
            raise MediaError(clip_id, f"reading it was {error}: its decoder, or the disk it lies on, is stuck") from None

    def _add_texts(self, sample: Sample, row: Row, position: int) -> None:
        if Modality.SUBTITLE in self.task.modalities:
            sample.subtitle = row.subtitle or ""
        if self._spec.told_len:
            sample.told = self._told(row, position)
        if any(self.task.groups(objective) for objective in OF_CAPTIONS):
            kinds = [kind for kind in row.captions if kind in self._needed]
            if CaptionKind.OMNI in row.captions and (not self.training or len(kinds) < len(self._needed)):
                kinds = [*dict.fromkeys([CaptionKind.OMNI, *kinds])]
            sample.captions = {kind: self._drawn(row.captions[kind], position, kind.value) for kind in kinds}
        if self._learns_negatives:
            sample.negatives = row.negatives
        if self.task.groups(Objective.QA):
            for name in ASKED:
                setattr(sample, name, self._drawn(getattr(row, name), position, "question"))
            if row.several_answers:
                (several,) = self._drawn(row.several_answers, position, "question")
                for name in ASKED:
                    setattr(sample, name, getattr(sample, name) * len(several))
                sample.answers, sample.answer_weights = [text for text, _ in several], [weight for _, weight in several]

    def _told(self, row: Row, position: int) -> str:
        """What a text branch reads of a clip. In training titles and descriptions are left out at random, and so are subtitles."""
        about = said = True
        if self.training:
            draws = torch.rand(2, generator=generator(*self._key(position), "told"))
            about, said = (draws >= self._spec.told_dropped).tolist()
        return told(row.title if about else "", row.description if about else "", (row.subtitle or "") if said else "")

    def said(self, row: int) -> Sample:
        """What is said of the clip of a row, without its media, with the draws of position 0."""
        annotation = self.annotations[row]
        spoken = self._row_conversation(annotation)
        return Sample(annotation.clip_id, row, subtitle=annotation.subtitle if Modality.SUBTITLE in self.task.modalities else None,
                      conversations=[spoken] if spoken else [*self._conversations(annotation, 0)])

    def _conversations(self, row: Row, position: int) -> Iterator[Conversation]:
        """What a model of conversations learns of a row of captions or of questions: for each group its caption; for each group all
        questions, one after the other."""
        if not self._converses:
            return
        for group in dict.fromkeys([*self.task.groups(Objective.CAPTION), *(self.task.groups(Objective.CHAT) if row.captions else ())]):
            kind = group.caption_kind if group.caption_kind in row.captions else CaptionKind.OMNI
            if kind in row.captions:
                yield captioning(group, self._drawn(row.captions[kind], position, kind.value)[0])
        if self.task.groups(Objective.QA):
            answers: dict[str, list[str]] = {}
            for place, question in enumerate(row.questions):
                several = [text for text, _ in row.several_answers[place]] if row.several_answers else [row.answers[place]]
                answers.setdefault(question, []).extend(several)
            drawn = [self._drawn(texts, position, f"answer {place}")[0] for place, texts in enumerate(answers.values())]
            yield from (answering(answers, drawn, group) for group in self.task.groups(Objective.QA))

    def _drawn(self, texts: list[Drawn], position: int, purpose: str) -> list[Drawn]:
        """Training: one of the texts, at the same place for the same purpose; evaluation: all."""
        if not self.training or len(texts) < 2:
            return texts
        return [texts[int(torch.randint(len(texts), (), generator=generator(*self._key(position), purpose)))]]

    def _key(self, position: int) -> tuple[object, ...]:
        return (self.seed, self.name, position)
