"""Captions by a model of ours, as labelling makes them: so many drawn by top-k sampling (k = 10) from what is seen, and as many from what
is heard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from omnivast.config.schema import DatasetConfig
from omnivast.config.tasks import Group, Modality, Objective, Task
from omnivast.corpus.captions.teachers import Teacher, TeacherError
from omnivast.corpus.engine.here import batches
from omnivast.corpus.engine.results import Row
from omnivast.data.batch import Sample
from omnivast.data.media.errors import MediaError
from omnivast.data.media.reader import ClipReader
from omnivast.inference.loading import load_parts
from omnivast.utils.machine import cores
from omnivast.utils.random import generator

BATCH = 16
READERS = 4
TOP_K = 10
GROUPS = ((Group((Modality.VISION,)), "vision"), (Group((Modality.AUDIO,)), "audio"))


class OurCaptioner:
    """A loaded model. Raises TeacherError for a folder without one that captions by sight alone or by sound alone."""

    def __init__(self, teacher: Teacher, root: Path) -> None:
        try:
            # On CPUs the precision would be chosen by a measurement, which must not decide about captions.
            self._parts = load_parts(teacher.folder or "", precision=None if torch.cuda.is_available() else "float32")
        except ValueError as error:  # of the config, the weights or the model
            raise TeacherError(f"the captioner '{teacher.name}': {error}") from None
        self._teacher = teacher
        known = self._parts.groups.get(Objective.CAPTION, ())
        self._groups = [(group, kind) for group, kind in GROUPS if group in known]
        if not self._groups:
            raise TeacherError(f"the captioner '{teacher.name}' was trained to caption by {', '.join(map(str, known)) or 'nothing'}; "
                               "expected by tv (what is seen alone), ta (what is heard alone), or both")
        task = Task(((Objective.CAPTION, tuple(group for group, _ in self._groups)),))
        shown = self._parts.sampling
        config = DatasetConfig(name="clips", task=str(task), vision=str(root), vision_format="video_rawvideo",
                               vision_transforms=shown.transform, vision_sample_num=shown.frames, audio_sample_num=shown.slices)
        if Modality.VISION not in task.modalities:
            config = DatasetConfig(name="clips", task=str(task), audio=str(root), audio_sample_num=shown.slices)
        self._modalities = task.modalities
        self._reader = ClipReader(config, task, shown.spec, training=False)

    def __call__(self, clips: Sequence[Row], there: int) -> Iterator[Row]:
        """A row of each clip behind the first ``there``."""
        todo = list(batches(clips, there, BATCH))
        with ThreadPoolExecutor(min(READERS, cores())) as readers:
            ahead = [readers.map(self._read, batch) for batch, _ in todo[:1]]
            for number, (batch, done) in enumerate(todo):
                ahead += [readers.map(self._read, following) for following, _ in todo[number + 1 : number + 2]]
                yield from self._captions(batch, list(ahead.pop(0)))[done:]

    def _read(self, clip: Row) -> Sample | MediaError:
        try:
            media = self._reader.read(clip["reference"], ())
        except MediaError as error:
            return error
        present = {modality: modality is not Modality.AUDIO or media.has_sound for modality in self._modalities}
        return Sample(clip["id"], 0, frames=media.frames, spectrogram=media.spectrogram, present=present)

    @torch.inference_mode()
    def _captions(self, clips: Sequence[Row], read: Sequence[Sample | MediaError]) -> list[Row]:
        """All of what can be read goes through the model at once."""
        samples = [sample for sample in read if isinstance(sample, Sample)]
        texts: dict[str, list[Row]] = {sample.clip_id: [] for sample in samples}
        if samples:
            model, teacher = self._parts.model, self._teacher
            memory = model.memory(self._parts.encode([group for group, _ in self._groups], samples))
            for group, kind in self._groups:
                longest = self._parts.config.model_cfg.max_caption_len
                keyed = [generator(teacher.seed, "captions", group, sample.clip_id) for sample in samples]
                draws = torch.stack([torch.rand(teacher.number, longest, generator=each) for each in keyed])
                for sample, drawn in zip(samples, model.scored_samples(memory, group, draws=draws, top_k=TOP_K)):
                    if kind == "audio" and not sample.present[Modality.AUDIO]:
                        continue
                    texts[sample.clip_id] += [self._caption(kind, text, score) for text, score in drawn if text.strip()]
        rows: list[Row] = []
        for clip, found in zip(clips, read):
            if isinstance(found, MediaError):
                rows.append({"id": clip["id"], "failed": found.reason})
            elif not texts[clip["id"]]:
                rows.append({"id": clip["id"], "failed": "its captions end before the first word"})
            else:
                rows.append({"id": clip["id"], "captions": texts[clip["id"]]})
        return rows

    def _caption(self, kind: str, text: str, score: float | None) -> Row:
        return {"kind": kind, "text": text, "by": self._teacher.name, "model": self._parts.weights.sha256[:16], "prompt": None,
                "seed": self._teacher.seed, "score": None if score is None else round(score, 4)}
