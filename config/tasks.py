"""Modalities, groups, objectives and tasks: the only place that reads notations such as ``ret%tvas%tv_cap%tva``.

A task string lists objectives separated by ``_``; each objective is followed by its groups, separated by ``%``. A group
names the modalities that a text is paired with. The text itself (``t``) may be written anywhere in the group or left out:
``tvas``, ``vast`` (``v a s t``), ``vas`` all mean vision + audio + subtitle. Printing always gives ``tvas``.

VALOR's contrast also has groups in which a track is compared with another one, or with the text and another one (VALOR, table 8):
``v-a``, ``v-ta``, ``a-tv``. Its release writes va, vta and atv, which :func:`as_valor_writes` reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from omnivast.config.words import asked, did_you_mean


class TaskError(ValueError):
    """A task string that cannot be understood; the message names the part and the valid choices."""


class Modality(str, Enum):
    """One track of a clip. Text is never a member: it is always the partner."""

    VISION = "v"
    AUDIO = "a"
    SUBTITLE = "s"

    @property
    def word(self) -> str:
        """The modality in words, for messages: ``vision``, ``audio``, ``subtitle``."""
        return self.name.lower()


class Objective(str, Enum):
    """What is trained or tested on the groups of a task."""

    RETRIEVAL = "ret"
    CAPTION = "cap"
    QA = "qa"
    MLM = "mlm"
    """Words hidden in captions, read bidirectionally; trained by VALOR, never tested."""
    CHAT = "chat"
    """Conversations about clips, each row with the tracks that it is about; for language models."""


OF_CAPTIONS = (Objective.RETRIEVAL, Objective.CAPTION, Objective.MLM)
"""The objectives whose texts are captions."""


class CaptionKind(str, Enum):
    """The caption kinds of VAST-27M. Corpora with one kind of caption use OMNI alone."""

    OMNI = "omni"
    VISION = "vision"
    AUDIO = "audio"


@dataclass(frozen=True, order=True)
class Group:
    """A set of modalities in the canonical order v, a, s, all of them the text's partner, unless one is ``alone``."""

    modalities: tuple[Modality, ...]
    alone: tuple[Modality, ...] = ()
    """The modality that is compared with the others; empty: the text is compared with all of them."""
    with_text: bool = True
    """Whether the text is part of it."""

    @classmethod
    def parse(cls, text: str) -> Group:
        """``"tvas"``, ``"vast"``, ``"sav"`` → Group(v, a, s). Raises TaskError for unknown or repeated letters."""
        letters = text.strip()
        if "-" in letters:
            return cls._parse_pair(letters)
        if letters.count("t") > 1:
            raise TaskError(f"group '{text}' names the text (t) more than once")
        letters = letters.replace("t", "")
        unknown = sorted(set(letters) - {m.value for m in Modality})
        if unknown:
            joined = "; objectives are joined by '_', as in ret%tvas_cap%tva" if any(o.value in letters for o in Objective) else ""
            listed = ", ".join(letter if letter.isalnum() else repr(letter) for letter in unknown)
            raise TaskError(f"group '{text}' has unknown letter(s) {listed}; valid are v (vision), a (audio), "
                            f"s (subtitle) and t (text){joined}")
        if not letters:
            raise TaskError(f"group '{text}' is empty: name at least one of v (vision), a (audio), s (subtitle)")
        if len(set(letters)) != len(letters):
            raise TaskError(f"group '{text}' names a modality more than once")
        return cls(tuple(m for m in Modality if m.value in letters))

    @classmethod
    def _parse_pair(cls, text: str) -> Group:
        """``v-a``, ``v-ta``, ``a-tv``; the letters behind the dash in any order, and ``a-v`` is ``v-a``."""
        one, _, other = text.partition("-")
        pairs = {("v", "a"): ("v", False), ("a", "v"): ("v", False), ("v", "at"): ("v", True), ("a", "tv"): ("a", True)}
        found = pairs.get((one, "".join(sorted(other))))
        if found is None:
            raise TaskError(f"group '{text}' is not understood; of groups with a dash there are v-a (vision against audio), v-ta (vision "
                            "against text and audio) and a-tv (audio against text and vision)")
        return cls((Modality.VISION, Modality.AUDIO), (Modality(found[0]),), found[1])

    @property
    def key(self) -> str:
        """The letters without the text, as heads and metrics are named: ``vas``."""
        return "".join(m.value for m in self.modalities)

    @property
    def caption_kind(self) -> CaptionKind:
        """Which caption of VAST-27M this group is paired with (paper, section 4.3)."""
        if self.modalities == (Modality.VISION,):
            return CaptionKind.VISION
        if self.modalities == (Modality.AUDIO,):
            return CaptionKind.AUDIO
        return CaptionKind.OMNI

    def __contains__(self, modality: object) -> bool:
        return modality in self.modalities

    def __iter__(self) -> Iterator[Modality]:
        return iter(self.modalities)

    def __str__(self) -> str:
        if not self.alone:
            return "t" + self.key
        return f"{self.alone[0].value}-{'t' if self.with_text else ''}{''.join(m.value for m in self.modalities if m not in self.alone)}"


@dataclass(frozen=True)
class Task:
    """Objectives and the groups of each, in the order written."""

    parts: tuple[tuple[Objective, tuple[Group, ...]], ...]

    @classmethod
    def parse(cls, text: str) -> Task:
        """``"ret%tvas%tv_cap%tva"`` → Task. Raises TaskError that names the offending part and the nearest valid one."""
        parts: list[tuple[Objective, tuple[Group, ...]]] = []
        if not isinstance(text, str) or not text.strip():
            raise TaskError("the task is empty; write for example ret%tvas, cap%tva or qa%tv")
        for part in text.strip().split("_"):
            name, *groups = part.split("%")
            objective = _objective(name, text)
            if not groups or not all(g.strip() for g in groups):
                raise TaskError(f"objective '{name}' in task '{text}' has an empty group; write for example {name}%tvas")
            if any(objective is seen for seen, _ in parts):
                raise TaskError(f"objective '{name}' occurs twice in task '{text}'; list its groups once: {name}%tv%tva")
            try:
                parsed = tuple(Group.parse(g) for g in groups)
            except TaskError as error:
                raise TaskError(f"task '{text}': {error}") from None
            if len(set(parsed)) != len(parsed):
                raise TaskError(f"objective '{name}' in task '{text}' names a group twice")
            if objective is not Objective.RETRIEVAL and (pair := next((group for group in parsed if group.alone), None)):
                raise TaskError(f"objective '{name}' in task '{text}' has group {pair}, which only ret, the contrast, can have")
            parts.append((objective, parsed))
        return cls(tuple(parts))

    def groups(self, objective: Objective) -> tuple[Group, ...]:
        """The groups of one objective; empty when the task does not have it."""
        return next((groups for own, groups in self.parts if own is objective), ())

    def without(self, objective: Objective) -> Task:
        """The task but for one objective."""
        return Task(tuple(part for part in self.parts if part[0] is not objective))

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return tuple(objective for objective, _ in self.parts)

    @property
    def all_groups(self) -> tuple[Group, ...]:
        """Every group of any objective, once, in order of first mention."""
        return tuple(dict.fromkeys(g for _, groups in self.parts for g in groups))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Every modality that some group needs, in canonical order."""
        used = {m for g in self.all_groups for m in g}
        return tuple(m for m in Modality if m in used)

    def __str__(self) -> str:
        return "_".join("%".join([o.value, *map(str, groups)]) for o, groups in self.parts)


VALOR_GROUPS = {"va": "v-a", "vta": "v-ta", "atv": "a-tv"}
PRETRAINING = "pt_"
OF_PRETRAINING = {"contra": Objective.RETRIEVAL.value, "caption": Objective.CAPTION.value}
"""Names of objectives behind ``pt_`` in VALOR's release, and ours."""


def as_valor_writes(text: str) -> str:
    """A task string of a VALOR config as ours: its release has other names for groups of the contrast, which elsewhere stand for the text
    and all their letters, and for the objectives of pretraining. ``ret%tva%va`` → ``ret%tva%v-a``, ``pt_contra%tv_caption%tv`` →
    ``ret%tv_cap%tv``."""
    def part(name: str, *groups: str) -> list[str]:
        name = OF_PRETRAINING.get(name.strip(), name) if is_pretraining(text) else name
        contrast = name.strip() == Objective.RETRIEVAL.value
        return [name, *(VALOR_GROUPS.get(group.strip(), group) if contrast else group for group in groups)]

    return "_".join("%".join(part(*own.split("%"))) for own in text.strip().removeprefix(PRETRAINING).split("_"))


def is_pretraining(text: str) -> bool:
    """Whether a task string is one of pretraining in VALOR's release."""
    return text.strip().startswith(PRETRAINING)


def _objective(name: str, text: str) -> Objective:
    try:
        return Objective(name.strip())
    except ValueError:
        if name.strip() and set(name.strip()) <= set("tvas"):
            raise TaskError(f"task '{text}': '{name}' is a group without its objective; write for example ret%{name}") from None
        longer = [o.value for o in Objective if name.strip().startswith(o.value)]
        hint = asked(longer) or did_you_mean(name.strip(), [o.value for o in Objective])
        raise TaskError(f"unknown objective '{name}' in task '{text}'; valid are ret (retrieval), cap (captioning), qa (answers), mlm "
                        f"(masked words, VALOR), chat (conversations).{hint}"
                        ) from None
