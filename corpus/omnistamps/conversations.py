"""Conversations about OmniStamps clips, for a language model that sees and hears: questions with answers, in training several to a
conversation, in tests one, so that no earlier answer helps.

Each conversation gives some of the clip's tracks (``modality``) and asks about facts of any: what is seen, how it moves, before which
background, what is heard, what is said, which number. Asked about a track that is not given, the answer says that it cannot be told.
Half of the questions whether something is there are answered by yes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from omnivast.corpus.omnistamps.texts import MOVEMENTS, QUESTIONS, VISION, with_article
from omnivast.utils.random import stable_seed

Row = dict[str, Any]
Clip = Mapping[str, Any]
"""A row of clips.json: the facts of one clip, in words."""

TRACK_OF = {"seen": "v", "motion": "v", "background": "v", "heard": "a", "said": "s", "number": "s"}
"""Fact → the track that tells it."""
CANNOT = "i cannot tell"
"""How each answer begins that says that the track is not given."""
WITHOUT = {"v": f"{CANNOT} without the picture", "a": f"{CANNOT} without the sound", "s": f"{CANNOT} without the words"}
IS_IT = {
    "seen": ("is {0} seen?", "does the video show {0}?", "can you see {0}?"),
    "heard": ("is {0} heard?", "can you hear {0}?", "is it the sound of {0}?"),
    "said": ("is {0} talked about?", "does the speaker mention {0}?", "is the topic {0}?"),
}
"""Facts whose presence is asked for → wordings."""
DESCRIBE = ("describe it", "describe the clip", "what is going on?")
SEEN_AND_HEARD = ("{seen} with the sound of {heard}", "{seen} is seen and {heard} is heard", "we see {seen} and hear {heard}")
GIVEN = {"v": 3, "a": 2, "s": 1, "va": 3, "vs": 2, "as": 1, "vas": 4}
"""Tracks given in training conversations → how many of each sixteen give them."""
YES_OR_NO = 0.3
"""How many of the questions about a thing ask whether it is there."""
SYSTEM = "answer briefly"
"""The system's text of all conversations. A language model's own may be longer than a question with its answer, and is read as often."""
TRACKS = ("seen", "heard", "said", "seen_heard", "all")
"""What ``type`` of a test question may be, before a stop and the kind of question: ``seen.motion``, ``heard.yes_no``."""


class Writer:
    """Writes the conversations of a set of clips."""

    def __init__(self, clips: Sequence[Clip], subtitles: Mapping[str, str], phrases: Mapping[str, str], seed: int = 0) -> None:
        """``subtitles``: by clip. ``phrases``: noun → the same with its article. ``seed`` decides every choice; those for one clip depend
        on no other clip's."""
        self.clips, self.subtitles, self.phrases, self.seed = clips, subtitles, phrases, seed
        self.things = {fact: sorted({clip[fact] for clip in clips}) for fact in IS_IT}

    def training(self, each: int = 1) -> list[Row]:
        """``each`` conversations about every training clip."""
        own = [clip for clip in self.clips if clip["split"] == "train"] * each
        given = _dealt(len(own), random.Random(stable_seed(self.seed, "given")))
        return [self._conversation(clip, tracks, number) for number, (clip, tracks) in enumerate(zip(own, given))]

    def tests(self, split: str) -> list[Row]:
        """Single questions about the clips of a split."""
        return [row for clip in self.clips if clip["split"] == split for row in self._tests(clip)]

    def captions(self) -> list[Row]:
        """What is described in the first stage of training: of each training clip the picture, the sound, and both."""
        found = []
        for clip in self.clips:
            if clip["split"] == "train":
                rng = random.Random(stable_seed(self.seed, "captions", clip["clip_id"]))
                found += [self._row(clip, tracks, [("describe it", self._description(clip, tracks, rng))], "describe")
                          for tracks in ("v", "a", "va")]
        return found

    def scenes(self) -> list[Row]:
        """Captions of the pictures of each training clip that tell its motion and background too, from which a vision tower learns to
        keep them."""
        found = []
        for clip in self.clips:
            if clip["split"] == "train":
                rng = random.Random(stable_seed(self.seed, "scenes", clip["clip_id"]))
                found.append({"video_id": clip["clip_id"], "desc": [self._scene(clip, template) for template in rng.sample(VISION, 3)]})
        return found

    def swapped(self, split: str = "test") -> list[tuple[str, Clip, Clip]]:
        """(id, clip whose pictures are taken, clip whose sound is) for each clip: the sound is of another one, which sounds otherwise."""
        own = [clip for clip in self.clips if clip["split"] == split]
        found = []
        for clip in own:
            rng = random.Random(stable_seed(self.seed, "swap", clip["clip_id"]))
            others = [other for other in own if other["heard"] != clip["heard"]]
            found.append((f"{clip['clip_id']}_swapped", clip, rng.choice(others)))
        return found

    def swap_rows(self, swapped: Sequence[tuple[str, Clip, Clip]]) -> list[Row]:
        """What is seen, and what is heard, in each; the answers of both clips beside the right one."""
        rows = []
        for name, seen, heard in swapped:
            rng = random.Random(stable_seed(self.seed, "swap questions", name))
            for fact, clip, other in (("seen", seen, heard), ("heard", heard, seen)):
                question = rng.choice(QUESTIONS[fact])
                rows.append({"video_id": name, "question": [question], "answer": [clip[fact]], "other": other[fact], "modality": "va",
                             "type": f"swap.{fact}", "system": SYSTEM})
        return rows

    # ------------------------------------------------------------------------------------------------------------ training

    def _conversation(self, clip: Clip, given: str, number: int) -> Row:
        """Each fact is asked for once at most: an answer that an earlier one gives away teaches nothing about the clip. Of each track that
        is not given, one fact is asked for."""
        rng = random.Random(stable_seed(self.seed, "chat", clip["clip_id"], number))
        if rng.random() < 0.1:
            return self._row(clip, given, [(rng.choice(DESCRIBE), self._description(clip, given, rng))], "describe")
        facts = [fact for fact, track in TRACK_OF.items() if track in given]
        missing = [rng.choice([fact for fact, own in TRACK_OF.items() if own == track]) for track in WITHOUT if track not in given]
        together = _together(given)
        if together and rng.random() < 0.3:
            facts = [fact for fact in facts if fact not in together] + [" ".join(together)]
        asked = facts + missing
        rng.shuffle(asked)
        return self._row(clip, given, [self._question(clip, fact, given, rng) for fact in asked], "chat")

    def _question(self, clip: Clip, fact: str, given: str, rng: random.Random) -> tuple[str, str]:
        """(question, answer)"""
        if fact in IS_IT and rng.random() < YES_OR_NO:
            there = rng.random() < 0.5
            return self._is_it(clip, fact, there, given, rng)
        return rng.choice(QUESTIONS[fact]), self._answer(clip, fact, given)

    def _is_it(self, clip: Clip, fact: str, there: bool, given: str, rng: random.Random) -> tuple[str, str]:
        thing = clip[fact] if there else rng.choice([name for name in self.things[fact] if name != clip[fact]])
        question = rng.choice(IS_IT[fact]).format(self.phrases[thing])
        return question, ("yes" if there else "no") if TRACK_OF[fact] in given else WITHOUT[TRACK_OF[fact]]

    @staticmethod
    def _answer(clip: Clip, fact: str, given: str) -> str:
        """The fact, or several facts joined by "and", or that the track of one is not given."""
        for part in fact.split():
            if TRACK_OF[part] not in given:
                return WITHOUT[TRACK_OF[part]]
        return " and ".join(clip[part] for part in fact.split())

    def _description(self, clip: Clip, given: str, rng: random.Random) -> str:
        phrases = {fact: self.phrases[clip[fact]] for fact in IS_IT}
        parts = []
        if "v" in given:
            parts.append(rng.choice(SEEN_AND_HEARD).format(**phrases) if "a" in given else self._scene(clip, rng.choice(VISION)))
        elif "a" in given:
            parts.append(f"the sound of {phrases['heard']}")
        if "s" in given:
            parts.append(f"someone talks about {phrases['said']}")
        return " and ".join(parts)

    def _scene(self, clip: Clip, template: str) -> str:
        moves, moving = MOVEMENTS[clip["motion"]]
        return template.format(seen=self.phrases[clip["seen"]], moves=moves, moving=moving, background=with_article(clip["background"]),
                               colour=clip["background"])

    # --------------------------------------------------------------------------------------------------------------- tests

    def _tests(self, clip: Clip) -> list[Row]:
        """Every track is asked about with other tracks beside it, and once where it is not given."""
        rng = random.Random(stable_seed(self.seed, "tests", clip["clip_id"]))
        scene, word = rng.choice(("motion", "background")), rng.choice(("said", "said", "number"))
        with_v, with_a, with_s = (rng.choice([tracks for tracks in GIVEN if track in tracks]) for track in "vas")
        asked = [("seen", "seen", with_v), (f"seen.{scene}", scene, with_v), ("heard", "heard", with_a), (f"said.{word}", word, with_s),
                 ("seen_heard", "seen heard", rng.choice(("va", "vas"))), ("all", "seen heard said", "vas")]
        rows = [self._row(clip, given, [(rng.choice(QUESTIONS[fact]), self._answer(clip, fact, given))], kind)
                for kind, fact, given in asked]
        for fact, given in (("seen", "va"), ("heard", "va"), ("said", "vas")):
            rows.append(self._row(clip, given, [self._is_it(clip, fact, rng.random() < 0.5, given, rng)], f"{fact}.yes_no"))
        without = [("seen", rng.choice(("a", "s", "as"))), ("heard", rng.choice(("v", "s", "vs"))), ("said", rng.choice(("v", "a", "va")))]
        for fact, given in rng.sample(without, 2):
            rows.append(self._row(clip, given, [self._question(clip, fact, given, rng)], f"cannot.{fact}"))
        return rows

    def _row(self, clip: Clip, given: str, turns: Sequence[tuple[str, str]], kind: str) -> Row:
        row = {"video_id": clip["clip_id"], "question": [question for question, _ in turns], "answer": [answer for _, answer in turns],
               "modality": given, "type": kind, "system": SYSTEM}
        return {**row, "subtitle": self.subtitles[clip["clip_id"]]} if "s" in given else row


def blind(rows: Sequence[Row]) -> list[Row]:
    """The same texts without any track, for the model that can only guess."""
    return [{key: value for key, value in row.items() if key != "subtitle"} | {"modality": ""} for row in rows]


def _together(given: str) -> tuple[str, ...]:
    """The things that one question asks for together, where their tracks are given."""
    return {"va": ("seen", "heard"), "vs": ("seen", "said"), "vas": ("seen", "heard", "said")}.get(given, ())


def _dealt(count: int, rng: random.Random) -> list[str]:
    """Tracks for so many conversations, in shuffled decks of all shares, so that any stretch has each about as often as it should."""
    deck = [tracks for tracks, share in GIVEN.items() for _ in range(share)]
    dealt: list[str] = []
    while len(dealt) < count:
        dealt += rng.sample(deck, len(deck))
    return dealt[:count]
