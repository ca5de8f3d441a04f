"""A trained model for one's own clips: embed, score, caption, answer, chat.

    model = omnivast.load("output/quickstart/pretrain")
    model.caption("clip.mp4").text
    model.answer("clip.mp4", "what is heard?").text
    model.score(["a dog barks"], ["clip.mp4", "other.mp4"])
    chat = model.chat("clip.mp4"); chat.ask("what is heard?"); chat.ask("is it loud?")

What a clip may be is said in clips.py. Every method takes one clip, or a list of them, and returns one result or a list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import pad

from omnivast.config.paths import as_path
from omnivast.config.tasks import CaptionKind, Group, Modality, Objective, TaskError
from omnivast.data.batch import Sample, Texts, make_texts
from omnivast.inference import export, sharing
from omnivast.inference.background import background_texts
from omnivast.inference.chat import Chat
from omnivast.inference.clips import Clip, ClipError, Clips
from omnivast.inference.evidence import Part, evidence_of, leave_out
from omnivast.inference.loading import HUB, Loaded, load_parts
from omnivast.inference.results import Answer, Caption, Embedding, Evidence
from omnivast.model.interface import Rows
from omnivast.utils.log import Progress, progress
from omnivast.utils.machine import cores
from omnivast.utils.random import generator

BATCH = 16
"""Clips encoded at once."""
READERS = 4
"""Clips read at once, at most; decoding is not done in Python."""
QUIET = 4
"""Fewer clips than this are worked on without a progress bar."""
TOP_K = 10
TOKENS = 32
"""See ``embed_texts``."""


def load(place: str | Path, *, device: str = "auto", precision: str | None = None, frames: int | None = None,
         slices: int | None = None, llm: str | Path | None = None) -> Pipeline:
    """The model at ``place``: the output folder of a run, a checkpoint in one, a folder written by ``save_pretrained``, or
    ``hf-hub:org/name``.

    Args:
        device: as ``run_cfg.device``: auto, cpu, cuda, cuda:1 …
        precision: auto, float32, bf16 or fp16; None: as the model was trained.
        frames, slices: of pictures and of sound that the model is shown of a clip, such as more of a long one; None: as it was tested.
        llm: where the language model of an Audio-Visual LLM lies now, if not where its training found it.
    """
    return Pipeline(load_parts(place, device=device, precision=precision, frames=frames, slices=slices, llm=llm), str(place))


@dataclass(frozen=True)
class _Seen:
    """Clips that were encoded together: their numbers in the caller's list, and what the model made of them."""

    numbers: list[int]
    clips: list[Clip]
    samples: list[Sample]
    features: Any
    group: Group
    """The largest of the groups that they are looked at by."""


class Pipeline:
    """A loaded model. ``parts`` has the model itself and its config, ``place`` says where it was loaded from."""

    def __init__(self, parts: Loaded, place: str) -> None:
        self.parts, self.place = parts, _absolute(place)
        self.model, self.sampling = parts.model, parts.sampling
        self._lengths = self.sampling.lengths

    def groups(self, objective: Objective | str) -> tuple[Group, ...]:
        """The groups that the model does "ret", "cap", "qa" or "chat" by, the largest first; none for what it was not trained for.

        A model of conversations is asked for captions and answers as for anything else, by any of the tracks that it knows, so that one
        that was trained by conversations alone does all three."""
        wanted = Objective(objective)
        own = self.parts.groups.get(wanted, ())
        if not self.model.conversations or wanted not in self.model.objectives:
            return own
        return self._conversed if wanted is Objective.CHAT else own or self._conversed

    @cached_property
    def _conversed(self) -> tuple[Group, ...]:
        """All groups of the tracks that a model of conversations was trained with: each conversation says which it is about."""
        known = {modality for groups in self.parts.groups.values() for group in groups for modality in group}
        tracks = [modality for modality in Modality if modality in known]
        return tuple(Group(some) for size in range(len(tracks), 0, -1) for some in combinations(tracks, size))

    def background(self) -> list[str]:
        """Texts about other clips than one's own, by which it can be told what a score means: captions that the model was trained on, as
        far as their files are at hand or, in a shared folder, kept."""
        return background_texts(self.parts)

    def save_pretrained(self, folder: str | Path, *, licence: str | None = None, copy_llm: bool = True) -> Path:
        """Write the model as a folder that others can load; see :func:`omnivast.inference.sharing.save_pretrained`."""
        return sharing.save_pretrained(self.parts, folder, licence=licence, copy_llm=copy_llm)

    def push_to_hub(self, name: str, *, licence: str | None = None, private: bool = False, token: str | None = None) -> str:
        """Upload the model to the Hugging Face Hub as ``org/name``; see :func:`omnivast.inference.sharing.push_to_hub`."""
        return sharing.push_to_hub(self.parts, name, licence=licence, private=private, token=token)

    def export_text(self, path: str | Path, format: Literal["onnx", "torch"] | None = None) -> Path:
        """Write the text tower as an ONNX file or a program of ``torch.export``, checked to compute the same vectors; see
        :mod:`omnivast.inference.export`.

        Args:
            format: None: as ``path`` ends, in .onnx or .pt2.

        Returns the path. Raises ImportError without the packages of the extra "onnx", ValueError for a model whose texts are compared by
        more than a vector, ExportError.
        """
        return export.export_text(self.parts, path, format)

    def export_language_model(self, folder: str | Path, *, whole: bool = False) -> Path:
        """Write the language model's LoRA adapter as a folder of peft or, with ``whole``, all of it with the adapter merged into its
        weights, as one of transformers. Raises ValueError for a model without."""
        return self.model.export_language_model(folder, whole=whole)

    # ------------------------------------------------------------------------------------------------------------- methods

    def embed(self, clips: Any) -> Any:
        """:class:`Embedding` of a clip, or a list of them: a vector of each group whose tracks the clip has."""
        def embedded(seen: _Seen) -> Iterator[Embedding]:
            own = [group for group in self.groups("ret") if set(group) <= seen.clips[0].present]
            rows = {group.key: self.model.index_clips(seen.features, group).to("cpu") for group in own}
            for place, clip in enumerate(seen.clips):
                mine = {key: found.rows(slice(place, place + 1)) for key, found in rows.items()}
                vectors = {key: row["vector"][0].numpy() for key, row in mine.items() if "vector" in row.tensors}
                yield Embedding(clip.name, vectors, _missing(clip, self._modalities("ret")), mine)

        return self._each(clips, Objective.RETRIEVAL, None, embedded, "embedding", every=True)

    def embed_texts(self, texts: str | Sequence[str], *, few_sizes: bool = False) -> Rows:
        """What texts are compared by, (T, …) float32 on the CPU; of most families ``["vector"]`` (T, D) alone.

        ``few_sizes``: beside some texts that nobody asked for, so that the model sees few numbers of texts and of tokens: oneDNN keeps
        megabytes for every size that it has met in bf16, which a program that embeds texts for months would notice.
        """
        if Objective.RETRIEVAL not in self.model.objectives:
            self._need(Objective.RETRIEVAL)
        listed = self._texts([texts] if isinstance(texts, str) else texts)
        with torch.inference_mode():
            found = self.model.index_texts(_few_sizes(listed) if few_sizes else listed).to("cpu")
        return found.rows(slice(0, len(listed.raw)))

    def score(self, texts: str | Sequence[str], clips: Any, *, group: str | None = None,
              by: Literal["contrastive", "matching"] = "contrastive") -> np.ndarray:
        """(T, C) float32: how well each text fits each clip.

        Args:
            group: the tracks to look at, such as "va"; None: the largest group that all clips have the tracks of.
            by: the similarity by which retrieval searches or, of a model that has one, the matching head, as a probability.
        """
        self._need(Objective.RETRIEVAL)
        texts = [texts] if isinstance(texts, str) else list(texts)
        with Clips() as opened:
            listed = [opened.open(clip) for clip in _listed(clips)[0]]
            if not listed:
                raise ClipError("no clip to score texts with")
            chosen = self._common_group(listed, group)
            if by == "matching":
                return self._matched(texts, listed, chosen)
            rows = [embedding.rows[chosen.key] for embedding in self.embed(listed)]
        together = Rows({name: torch.cat([row[name] for row in rows]) for name in rows[0].tensors})
        return self.model.similarity(chosen, self.embed_texts(texts), together).numpy()

    def caption(self, clips: Any, *, group: str | None = None, n: int = 1, beams: int | None = None, sample: bool = False,
                seed: int = 0) -> Any:
        """:class:`Caption` of a clip, or a list of them.

        Args:
            group: the tracks to look at; None: the largest group that the clip has the tracks of.
            n: captions of each clip, the best of a beam search or, with ``sample``, as many draws.
            beams: width of the search; None: as the model is tested. 1: greedy.
        """
        if n < 1 or (beams is not None and beams < 1):
            raise ValueError(f"n and beams are at least 1; got {n} and {beams}")
        width = max(n, beams or self.parts.config.run_cfg.beam_size)
        longest = self.parts.config.model_cfg.max_caption_len

        def captioned(seen: _Seen) -> Iterator[Caption]:
            memory = self.model.memory(seen.features)
            if sample:
                draws = torch.stack([torch.rand(n, longest, generator=generator(seed, "caption", clip.name)) for clip in seen.clips])
                found = self.model.scored_samples(memory, seen.group, draws=draws, top_k=TOP_K)
            else:
                found = self.model.scored_captions(memory, seen.group, beam_size=width, max_length=longest,
                                                   length_penalty=self.model.length_penalty)
            for clip, candidates in zip(seen.clips, found):
                texts, scores = zip(*candidates[:n])
                yield Caption(clip.name, texts[0], seen.group.key, texts, _missing(clip, self._modalities("cap")), scores)

        return self._each(clips, Objective.CAPTION, group, captioned, "captioning")

    def answer(self, clips: Any, question: str | Sequence[str], *, group: str | None = None, beams: int | None = None,
               evidence: bool = False, without: Collection[tuple[str, int]] = ()) -> Any:
        """:class:`Answer` to a question about a clip. With several clips a list; with several questions a list for each clip.

        Args:
            evidence: name the frames and slices of sound without which the answer is another; see :mod:`omnivast.inference.evidence`.
                Raises ValueError for a family that does not say how likely an answer is.
            without: frames ("seen", n) and slices ("heard", n) that the model is not shown, from 0; as evidence names them.
        """
        questions = [question] if isinstance(question, str) else list(question)
        if not questions or not all(isinstance(text, str) and text.strip() for text in questions):
            raise ValueError("a question is a text that is not empty")
        run = self.parts.config.run_cfg
        width = beams or run.beam_size_qa or run.beam_size

        def answered(seen: _Seen) -> Iterator[Any]:
            texts = make_texts([questions] * len(seen.clips), self.model.tokenizer, self._lengths.question)
            memory = self.model.memory(seen.features)
            answers = self.model.answer(memory, seen.group, texts, beam_size=width)
            scores = self.model.answer_scores(memory, seen.group, texts, answers)
            found = iter(zip(answers, [None] * len(answers) if scores is None else scores))
            for row, clip in enumerate(seen.clips):
                missing = _missing(clip, self._modalities("qa"))
                own = [Answer(clip.name, text, words, seen.group.key, missing,
                              self._evidence(seen, row, text, words, width) if evidence else None, score)
                       for text, (words, score) in zip(questions, found)]
                yield own[0] if isinstance(question, str) else own

        return self._each(clips, Objective.QA, group, answered, "answering", without=without)

    def _evidence(self, seen: _Seen, row: int, question: str, answer: str, width: int) -> tuple[Evidence, ...]:
        """What the answer about one of these clips depends on."""
        model, group = self.model, seen.group

        def asked(count: int) -> Texts:
            return make_texts([[question]] * count, model.tokenizer, self._lengths.question)

        def ask(features: Any, count: int) -> list[str]:
            return model.answer(model.memory(features), group, asked(count), beam_size=width)

        def score(features: Any, count: int) -> list[float]:
            found = model.answer_scores(model.memory(features), group, asked(count), [answer] * count)
            if found is None:
                raise ValueError(f"{type(model).__name__} does not say how likely an answer is, by which one could tell what it depends on")
            return found

        return evidence_of(self.parts, seen.samples[row], group, seen.clips[row], answer, ask, score)

    def chat(self, clips: Any, questions: str | Sequence[str] | None = None, *, group: str | None = None, beams: int | None = None,
             tokens: int | None = None, system: str | None = None, so_far: Sequence[tuple[str, str]] = ()) -> Any:
        """A conversation about a clip, of a model with a language model: :class:`~omnivast.inference.chat.Chat`, whose ``ask`` answers the
        next question. The clip is looked at once. With several clips a list.

        Args:
            questions: asked at once, one after the other; then the :class:`Answer` to one, or a list of those to several, in place of the
                Chat.
            group: the tracks to look at; None: all that the clip has of those that the model was trained with. The subtitle is given as
                text.
            beams: width of the search; None: as the model is tested.
            tokens: of an answer at most; None: as the model is tested.
            system: what the language model is told beforehand.
            so_far: questions and their answers that have been said already.
        """
        asked = [questions] if isinstance(questions, str) else questions
        run, longest = self.parts.config.run_cfg, tokens or self.parts.config.model_cfg.max_answer_len

        def begun(seen: _Seen) -> Iterator[Any]:
            for place, clip in enumerate(seen.clips):
                memory = self.model.memory(seen.features).rows(torch.tensor([place]))
                chat = Chat(self.model, memory, clip.name, seen.group, missing=_missing(clip, self._modalities("chat")), system=system,
                            beams=beams or run.beam_size, tokens=longest, so_far=so_far)
                answers = [chat.ask(question) for question in asked or ()]
                yield chat if asked is None else answers[0] if isinstance(questions, str) else answers

        return self._each(clips, Objective.CHAT, group, begun, "looking")

    # ------------------------------------------------------------------------------------------------------------- clips

    def _each(self, clips: Any, objective: Objective, group: str | None, use: Callable[[_Seen], Iterator[Any]], verb: str,
              every: bool = False, without: Collection[Part] = ()) -> Any:
        """``use`` of all clips, in their order; one result where one clip was given. ``every``: of all groups, not of one. ``without``:
        frames and slices to leave out."""
        self._need(objective)
        listed, single = _listed(clips)
        results: list[Any] = [None] * len(listed)
        with Clips() as opened, torch.inference_mode():
            ready = [opened.open(clip, f"clip {number}" if len(listed) > 1 else "") for number, clip in enumerate(listed)]
            groups = [self._groups_for(clip, objective, group, every) for clip in ready]
            bar: Progress[Any] | None = progress(len(ready), verb, unit="clips") if len(ready) >= QUIET else None
            for seen in self._encoded(ready, groups, without):
                for number, result in zip(seen.numbers, use(seen), strict=True):
                    results[number] = result
                if bar is not None:
                    bar.update(len(seen.numbers))
            if bar is not None:
                bar.close()
        return results[0] if single else results

    def _need(self, objective: Objective) -> None:
        """Raise ValueError for what the model does not do."""
        if self.groups(objective):
            return
        if objective is Objective.CHAT and not self.model.conversations:
            raise ValueError(f"{type(self.model).__name__} has no language model to converse with; ask it with answer()")
        raise ValueError(f"this model was not trained for '{objective.value}'; it was for "
                         f"{', '.join(known.value for known in self.parts.groups) or 'nothing that is known'}")

    def _encoded(self, clips: Sequence[Clip], groups: Sequence[tuple[Group, ...]], without: Collection[Part] = ()) -> Iterator[_Seen]:
        """Batches of clips that are looked at alike: the same groups, the same number of frames, the same tracks."""
        def alike(number: int) -> tuple[Any, ...]:
            clip = clips[number]
            return tuple(map(str, groups[number])), self.sampling.frames_of(clip), sorted(m.value for m in clip.present)

        batches = []
        for _, same in groupby(sorted(range(len(clips)), key=alike), alike):
            numbers = list(same)
            batches += [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]
        with ThreadPoolExecutor(min(READERS, cores())) as readers:
            def read(numbers: list[int]) -> list[Any]:
                modalities = {m for group in groups[numbers[0]] for m in group}
                return [readers.submit(self.sampling.read, clips[n], [m for m in Modality if m in modalities]) for n in numbers]

            ahead = [read(batches[0])] if batches else []
            for place, numbers in enumerate(batches):
                ahead += [read(batches[place + 1])] if place + 1 < len(batches) else []
                samples: list[Sample] = [future.result() for future in ahead.pop(0)]
                samples = [leave_out(self.sampling, sample, without) for sample in samples] if without else samples
                features = self.parts.encode(groups[numbers[0]], samples)
                yield _Seen(numbers, [clips[n] for n in numbers], samples, features, groups[numbers[0]][0])

    def _groups_for(self, clip: Clip, objective: Objective, asked: str | None, every: bool) -> tuple[Group, ...]:
        """The groups to look at a clip by: all that it has the tracks of, or the one asked for, or the largest that it has the tracks of
        or, failing that, the one of which it lacks the fewest. Raises ClipError where there is none."""
        known = self.groups(objective)
        if asked is not None:
            return (self._asked(asked, objective, clip),)
        fitting = tuple(group for group in known if set(group) <= clip.present)
        if not fitting and not every:  # as in labelling: the fewest tracks missing, which the result names; pictures cannot be made up
            visible = Modality.VISION in clip.present
            partly = [group for group in known if set(group) & clip.present and (visible or Modality.VISION not in group)]
            fitting = tuple(sorted(partly, key=lambda group: len(set(group) - clip.present))[:1])
        if not fitting:
            has = ", ".join(m.word for m in Modality if m in clip.present) or "nothing"
            raise ClipError(f"{clip.name}: has {has}, but the model looks at {', or at '.join(_words(group) for group in known)}")
        return fitting if every else fitting[:1]

    def _asked(self, asked: str, objective: Objective, clip: Clip) -> Group:
        known = self.groups(objective)
        try:
            group = Group.parse(asked)
        except TaskError as error:
            raise ValueError(str(error)) from None
        if group not in known:
            raise ValueError(f"the model was not trained for '{objective.value}' by {_words(group)}; it was by "
                             f"{', '.join(one.key for one in known)}")
        lacking = [m.word for m in group if m not in clip.present]
        if lacking:
            raise ClipError(f"{clip.name}: has no {' and no '.join(lacking)}, but was to be looked at by {_words(group)}")
        return group

    def _common_group(self, clips: Sequence[Clip], asked: str | None) -> Group:
        if asked is not None:
            return [self._asked(asked, Objective.RETRIEVAL, clip) for clip in clips][0]
        common = [group for group in self.groups("ret") if all(set(group) <= clip.present for clip in clips)]
        if not common:
            raise ClipError("the clips have no tracks in common that the model compares them by; score those with the same tracks together")
        return common[0]

    def _matched(self, texts: Sequence[str], clips: Sequence[Clip], group: Group) -> np.ndarray:
        """(T, C) probabilities of the matching head."""
        if not self.model.can_match:
            raise ValueError(f"{type(self.model).__name__} has no matching head; score by='contrastive'")
        words = self._texts(texts)
        scores = np.empty((len(texts), len(clips)), np.float32)
        with torch.inference_mode():
            for seen in self._encoded(clips, [(group,)] * len(clips)):
                memory = self.model.memory(self.model.matching_features(seen.features, list(group)))
                count = len(seen.numbers)
                rows = torch.arange(count).repeat(len(texts))
                ids, mask = (x.repeat_interleave(count, 0) for x in (words.ids, words.mask))
                margins = self.model.match(memory, group, ids, mask, rows)
                scores[:, seen.numbers] = margins.sigmoid().view(len(texts), count).cpu().numpy()
        return scores

    def _texts(self, texts: Sequence[str]) -> Texts:
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"a text is a str; got {type(text).__name__}")
        return make_texts([[text] for text in texts], self.model.tokenizer, self._lengths.caption[CaptionKind.OMNI])

    def _modalities(self, objective: str) -> set[Modality]:
        return {modality for group in self.groups(objective) for modality in group}


def _absolute(place: str) -> str:
    return place if place.startswith(HUB) else str(as_path(place).resolve())


def _listed(clips: Any) -> tuple[list[Any], bool]:
    """(the clips, whether it was one that was not in a list)."""
    return (list(clips), False) if isinstance(clips, (list, tuple, Iterator)) else ([clips], True)


def _missing(clip: Clip, wanted: set[Modality]) -> tuple[str, ...]:
    return tuple(modality.word for modality in Modality if modality in wanted and modality not in clip.present)


def _few_sizes(texts: Texts) -> Texts:
    """The same with some more, so that there is a power of two of texts, and a multiple of ``TOKENS`` of tokens in all."""
    count, width = texts.ids.shape
    more = (1 << count.bit_length()) - count
    lengths = [1] * more
    lengths[0] += -(int(texts.mask.sum()) + more) % TOKENS
    size = (0, max(0, lengths[0] - width), 0, more)
    mask = pad(texts.mask, size, value=False)
    for row, length in enumerate(lengths, count):
        mask[row, :length] = True
    return Texts(pad(texts.ids, size), mask, pad(texts.clip, (0, more)), [*texts.raw, *[""] * more])


def _words(group: Group) -> str:
    return " + ".join(modality.word for modality in group)
