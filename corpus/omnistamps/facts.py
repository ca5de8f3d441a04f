"""The facts of every clip: what is seen, heard and said, how it moves, before which background, and which number is named.

Splits. Each stamp that is seen, each sound and each subject belongs to one of four classes, per role. The three facts of a
validation or test clip are of the same class; those of a training clip are of three different classes. So no pair of facts of a
test clip, and no triple, ever occurs in training, while every single fact does. Within its class, a validation or test clip takes
all three facts from one cell, a smaller part of each role's names, so that test clips share pairs of facts too, and even two tracks
seldom identify a clip.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omnivast.config.words import did_you_mean
from omnivast.corpus.omnistamps.picks import PHRASES, SIZES, Size
from omnivast.utils.random import stable_seed

CLASSES = 4
_ATTEMPTS, _ROUNDS = 10, 200
SPLITS = ("train", "val", "test")
MOTIONS = ("left", "right", "up", "down", "growing", "shrinking", "turning")
BACKGROUNDS = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

Triple = tuple[str, str, str]
"""Names of the stamps seen, heard and talked about."""


class SourceError(ValueError):
    """A folder of stamps that cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Stamp:
    """A picture with its name, and its recorded sound where it has one."""

    name: str
    phrase: str
    """With its article, as it stands in a caption: ``a cow``."""
    image: str
    """Path relative to the source folder."""
    sound: str | None
    seconds: float | None

    @property
    def noun(self) -> str:
        """Without its article, as it stands in an answer: ``cow``."""
        return self.phrase.split(" ", 1)[1]


@dataclass(frozen=True)
class Clip:
    """The facts of one clip; seen, heard and said are names of stamps."""

    clip_id: str
    split: str
    seen: str
    motion: str
    background: str
    heard: str
    said: str
    number: str

    @property
    def triple(self) -> Triple:
        return self.seen, self.heard, self.said


@dataclass(frozen=True)
class Entities:
    """The names that each role may take."""

    seen: tuple[str, ...]
    heard: tuple[str, ...]
    said: tuple[str, ...]


def size_named(name: str) -> Size:
    """The size of that name. Raises ValueError that names the valid ones and the nearest."""
    if name not in SIZES:
        raise ValueError(f"unknown size '{name}'; valid are {', '.join(SIZES)}.{did_you_mean(name, SIZES)}")
    return SIZES[name]


def read_stamps(source: str | Path) -> dict[str, Stamp]:
    """The stamps of ``<source>/stamps.json`` by name. Raises SourceError for a missing or broken file or media."""
    source = Path(source)
    path = source / "stamps.json"
    if not path.is_file():
        raise SourceError(f"{path}: no such file; the source is a folder with stamps.json, images/ and sounds/")
    try:
        rows = json.loads(path.read_text())
    except ValueError as error:
        raise SourceError(f"{path}: not JSON ({error})") from None
    stamps: dict[str, Stamp] = {}
    for row in rows:
        missing = [key for key in ("name", "caption", "image") if not row.get(key)]
        if missing:
            raise SourceError(f"{path}: stamp {row.get('name', len(stamps))!r} has no '{missing[0]}'")
        phrase = PHRASES.get(row["name"], row["caption"].lower().replace("-", " "))
        stamps[row["name"]] = Stamp(row["name"], phrase, row["image"], row.get("sound"), row.get("seconds"))
        for media in filter(None, (row["image"], row.get("sound"))):
            if not (source / media).is_file():
                raise SourceError(f"{source / media}: no such file, though {path} lists it for '{row['name']}'")
    if len({stamp.phrase for stamp in stamps.values()}) < len(stamps) or len(stamps) < len(rows):
        raise SourceError(f"{path}: two stamps share a name")
    return stamps


def entities_of(size: Size, stamps: dict[str, Stamp]) -> Entities:
    """The names of each role in this size. Raises SourceError when the source lacks one of them."""
    for name in (*size.seen, *size.heard, *size.said):
        if name not in stamps:
            raise SourceError(f"stamps.json has no stamp '{name}', which this size needs")
    heard = size.heard or tuple(name for name, stamp in stamps.items() if stamp.sound)
    silent = [name for name in heard if not stamps[name].sound]
    if silent:
        raise SourceError(f"stamps.json names no sound for '{silent[0]}', which this size needs")
    return Entities(size.seen or tuple(stamps), heard, size.said or tuple(stamps))


def draw_clips(entities: Entities, counts: dict[str, int], seed: int, cells: int = CLASSES) -> list[Clip]:
    """The clips of all splits, in the order train, val, test; the same for the same arguments on every machine.

    ``counts``: clips per split. ``cells``: a multiple of CLASSES.
    """
    if cells % CLASSES:
        raise ValueError(f"cells must be a multiple of {CLASSES}, not {cells}")
    roles = [_shuffled(getattr(entities, role), seed, role) for role in ("seen", "heard", "said")]
    triples: dict[str, list[Triple]] = {}
    taken: set[Triple] = set()
    for split in ("test", "val", "train"):
        rng = random.Random(stable_seed(seed, "triples", split))
        if split == "train":
            triples[split] = _draw_triples(roles, CLASSES, list(itertools.permutations(range(CLASSES), 3)), counts[split], taken, rng)
        else:
            triples[split] = _draw_triples(roles, cells, [(c, c, c) for c in range(cells)], counts[split], taken, rng)
        taken.update(triples[split])
    return [clip for split in SPLITS for clip in _dress(triples[split], split, random.Random(stable_seed(seed, "scene", split)))]


def _shuffled(names: Iterable[str], seed: int, role: str) -> list[str]:
    """The names of one role in an order of their own; part p of P is every P-th from p on, so cell c lies in class c % CLASSES."""
    names = sorted(names)
    random.Random(stable_seed(seed, "classes", role)).shuffle(names)
    return names


def _draw_triples(
    roles: Sequence[list[str]], parts: int, combinations: Sequence[tuple[int, ...]], count: int, taken: set[Triple], rng: random.Random
) -> list[Triple]:
    """``count`` different triples whose parts (per role) are among ``combinations``; a name is used as often as others of its part.

    Raises ValueError when there are not so many.
    """
    for _ in range(_ATTEMPTS):
        drawn = deal(combinations, count, rng)
        columns = []
        for role, names in enumerate(roles):
            needed = [sum(combination[role] == part for combination in drawn) for part in range(parts)]
            decks = [iter(deal(names[part::parts], needed[part], rng)) for part in range(parts)]
            columns.append([next(decks[combination[role]]) for combination in drawn])
        if _settle(columns, drawn, taken, rng):
            return list(zip(*columns))
    raise ValueError(f"no {count} different triples exist among these stamps; ask for fewer clips or name more stamps")


def deal(values: Sequence, count: int, rng: random.Random) -> list:
    """``count`` values from shuffled copies of ``values``, one copy after another: each occurs as often as any other, to within one."""
    dealt: list = []
    while len(dealt) < count:
        dealt.extend(rng.sample(values, len(values)))
    return dealt[:count]


def _settle(columns: list[list[str]], combinations: list[tuple[int, ...]], taken: set[Triple], rng: random.Random) -> bool:
    """Swap sounds or subjects of the same part until no triple repeats, is taken, or names a stamp twice; whether that was reached."""
    mates: dict[tuple[int, int], list[int]] = {}
    for row, combination in enumerate(combinations):
        for role, part in enumerate(combination):
            mates.setdefault((role, part), []).append(row)
    for _ in range(_ROUNDS):
        used, bad = set(taken), []
        for row, triple in enumerate(zip(*columns)):
            if triple in used or len(set(triple)) < 3:
                bad.append(row)
            used.add(triple)
        if not bad:
            return True
        for row in bad:
            role = rng.choice((1, 2))
            other = rng.choice(mates[role, combinations[row][role]])
            column = columns[role]
            column[row], column[other] = column[other], column[row]
    return False


def clip_id(split: str, index: int) -> str:
    """``train00007``."""
    return f"{split}{index:05d}"


def _dress(triples: list[Triple], split: str, rng: random.Random) -> list[Clip]:
    scenes = zip(*(deal(values, len(triples), rng) for values in (MOTIONS, BACKGROUNDS, NUMBERS)))
    return [
        Clip(clip_id(split, index), split, seen, motion, background, heard, said, number)
        for index, ((seen, heard, said), (motion, background, number)) in enumerate(zip(triples, scenes))
    ]
