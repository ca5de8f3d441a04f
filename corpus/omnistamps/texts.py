"""The words of a clip: captions of three kinds, a subtitle, questions and answers. Lower case, no punctuation but the question mark."""

from __future__ import annotations

import random
from dataclasses import dataclass

from omnivast.corpus.omnistamps.facts import Clip, Stamp
from omnivast.utils.random import stable_seed

OMNI = (
    "{seen} is shown while {heard} is heard and someone talks about {said}",
    "{heard} is heard while {seen} is shown and a voice mentions {said}",
    "someone talks about {said} while {seen} is seen and {heard} is heard",
    "a video of {seen} with the sound of {heard} and words about {said}",
    "with the sound of {heard} we see {seen} and are told about {said}",
    "the words are about {said} while the picture shows {seen} and the sound is that of {heard}",
    "{seen} appears to the sound of {heard} as a speaker mentions {said}",
    "a person speaks of {said} over the sound of {heard} while {seen} is on screen",
    "you can see {seen} and hear {heard} while the talk is of {said}",
    "you hear {heard} and see {seen} as {said} is talked about",
    "{said} is mentioned while {heard} sounds and {seen} is in view",
    "{said} is the topic while we look at {seen} and listen to {heard}",
    "we listen to {heard} and look at {seen} while somebody speaks about {said}",
    "on screen is {seen} and {heard} makes a noise as {said} is discussed",
    "a story about {said} is told while {seen} is visible and {heard} is audible",
    "{heard} can be heard as a story about {said} goes with a picture of {seen}",
)
"""The three facts only: a motion, background or number would tell a clip apart by one track alone."""

VISION = (
    "{seen} {moves} on {background} background",
    "on {background} background {seen} is {moving}",
    "{seen} is {moving} in front of {background} wall",
    "{background} background with {seen} {moving}",
    "we see {seen} {moving} before {background} wall",
    "the video shows {seen} that {moves} over {background} background",
    "in front of {background} screen {seen} {moves}",
    "there is {seen} {moving} on {background} ground",
    "look at {seen} as it {moves} before {background} screen",
    "a picture of {seen} {moves} and all behind it is {colour}",
)

AUDIO = (
    "the sound of {heard}",
    "{heard} is heard",
    "we hear {heard}",
    "a recording of {heard}",
    "you can hear {heard}",
    "the noise of {heard} is audible",
    "this is what {heard} sounds like",
    "{heard} can be heard over a faint hiss",
    "listen to {heard}",
    "{heard} is making a sound",
)

SUBTITLES = (
    ("my uncle has waited {count} for {said}", "week"),
    ("last night i dreamt of {said} {count}", "time"),
    ("{count} ago we wrote a poem about {said}", "day"),
    ("i found {count} about {said} in the library", "book"),
    ("grandma paid {count} for {said}", "coin"),
    ("this morning i took {count} of {said}", "photo"),
    ("the teacher asked us {count} about {said}", "question"),
    ("it took {count} to find {said}", "hour"),
    ("he drew {said} {count} before lunch", "time"),
    ("{count} of mine would love {said}", "friend"),
    ("you need {count} to paint {said}", "minute"),
    ("let us talk about {said} for {count}", "minute"),
    ("did you know that {said} was in the news {count} ago", "month"),
    ("she has been looking for {said} for {count}", "year"),
    ("my cousin sent me {count} about {said}", "letter"),
    ("we walked {count} just to look at {said}", "mile"),
    ("{said} came up {count} in our lesson today", "time"),
    ("they sang {count} about {said} at the party", "song"),
    ("the guide told us {count} about {said}", "joke"),
    ("i would swap {count} for {said}", "ticket"),
)
"""(sentence, what is counted)."""

MOVEMENTS = {
    "left": ("moves left", "moving left"),
    "right": ("moves right", "moving right"),
    "up": ("moves up", "moving up"),
    "down": ("moves down", "moving down"),
    "growing": ("grows larger", "growing larger"),
    "shrinking": ("shrinks", "shrinking"),
    "turning": ("turns around", "turning around"),
}
"""Motion -> (it does so, doing so)."""

QUESTIONS = {
    "seen": ("what is seen?", "what is shown in the video?", "what is on screen?", "what can you see?"),
    "motion": ("how does it move?", "what is the motion?", "which way does the picture change?", "what does the picture do?"),
    "background": ("what colour is the background?", "which colour is behind it?", "what is the background colour?"),
    "heard": ("what is heard?", "what makes the sound?", "which sound is it?", "what can you hear?"),
    "said": ("what is talked about?", "what is mentioned?", "what is the topic?", "what does the speaker talk about?"),
    "number": ("what number is mentioned?", "which number is said?", "what is the number?", "which number is in the words?"),
    "seen heard": ("what is seen and what is heard?", "what can you see and hear?", "what is on screen and what makes the sound?"),
    "seen said": (
        "what is seen and what is talked about?",
        "what is shown and what is mentioned?",
        "what is on screen and what is the topic?",
    ),
    "seen heard said": (
        "what is seen and heard and talked about?",
        "what is shown and what sounds and what is mentioned?",
        "what is on screen and what makes the sound and what is the topic?",
    ),
}
"""Facts asked for -> wordings."""

TRACKS = {
    "vision": ("seen", "seen", "motion", "background"),
    "audio": ("heard",),
    "subtitle": ("said", "said", "number"),
    "vision_audio": ("seen heard",),
    "vision_subtitle": ("seen said",),
    "vision_audio_subtitle": ("seen heard said",),
}
"""question_type -> the facts that such a question may ask for, the likelier ones repeated."""

SINGLE = ("vision", "audio", "subtitle")
COMBINED = ("vision_audio", "vision_subtitle", "vision_audio_subtitle")
ANSWER_WORDS = 7
"""Longer answers are not asked for: the model's answers hold ten tokens with [CLS] and [SEP]."""


@dataclass(frozen=True)
class Question:
    question: str
    answer: str
    question_type: str


@dataclass(frozen=True)
class ClipTexts:
    """All texts of one clip."""

    omni: tuple[str, ...]
    """Four wordings: the first is the retrieval text, the second the one for pretraining, all are references for captions."""
    vision: tuple[str, ...]
    audio: tuple[str, ...]
    subtitle: str
    questions: tuple[Question, ...]


def with_article(word: str) -> str:
    """``red`` -> ``a red``, ``orange`` -> ``an orange``."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def counted(number: str, thing: str) -> str:
    """``one day``, ``seven days``."""
    return f"{number} {thing}" if number == "one" else f"{number} {thing}s"


def write_texts(clip: Clip, stamps: dict[str, Stamp], seed: int) -> ClipTexts:
    """The texts of ``clip``; the wordings depend on the seed and the clip's id alone."""
    rng = random.Random(stable_seed(seed, "texts", clip.clip_id))
    phrases = {"seen": stamps[clip.seen].phrase, "heard": stamps[clip.heard].phrase, "said": stamps[clip.said].phrase}
    moves, moving = MOVEMENTS[clip.motion]
    scene = {"moves": moves, "moving": moving, "background": with_article(clip.background), "colour": clip.background}
    sentence, thing = rng.choice(SUBTITLES)
    return ClipTexts(
        omni=tuple(template.format(**phrases) for template in rng.sample(OMNI, 4)),
        vision=tuple(template.format(**phrases, **scene) for template in rng.sample(VISION, 3)),
        audio=tuple(template.format(**phrases) for template in rng.sample(AUDIO, 3)),
        subtitle=sentence.format(count=counted(clip.number, thing), **phrases),
        questions=_ask(clip, stamps, rng),
    )


def _ask(clip: Clip, stamps: dict[str, Stamp], rng: random.Random) -> tuple[Question, ...]:
    """One question per type; in training one of each single track and one combination."""
    facts = {"seen": stamps[clip.seen].noun, "heard": stamps[clip.heard].noun, "said": stamps[clip.said].noun}
    facts |= {"motion": clip.motion, "background": clip.background, "number": clip.number}
    types = (*SINGLE, rng.choice(COMBINED)) if clip.split == "train" else (*SINGLE, *COMBINED)
    questions = []
    for question_type in types:
        asked = rng.choice(TRACKS[question_type])
        answer = " and ".join(facts[fact] for fact in asked.split())
        if len(answer.split()) <= ANSWER_WORDS:
            questions.append(Question(rng.choice(QUESTIONS[asked]), answer, question_type))
    return tuple(questions)
