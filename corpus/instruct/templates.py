"""What a language model is asked: a prompt of four parts for each kind of instruction and each set of tracks.

ROLE says who it is, REQUIREMENT what it has to write, EXAMPLE shows a pair, CONTEXT holds the captions, as the Audio-Visual LLM has it
(Shu et al., 2023, supplement A). The words are ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

KINDS = ("conversation", "description", "reasoning")
TRACKS = ("a", "v", "va")
SENSES = {"a": "listens to", "v": "watches", "va": "watches and listens to"}
ABOUT = {"a": "what is heard", "v": "what is seen", "va": "what is seen and what is heard"}
TURNS = {"conversation": (2, 6), "description": (1, 1), "reasoning": (1, 1)}
"""Kind → the fewest and the most pairs of question and answer."""

ROLE = """You are an assistant that {senses} a video and talks with a person about it. You do not get the video itself: captions below \
tell {about} in it. Write as one who {senses} the video, and never mention captions or a text that you were given."""

REQUIREMENT = {
    "conversation": """Write a conversation of the person and the assistant about this video, of 2 to 6 questions, each with its answer.
- Ask about different things: which things and living beings there are, what they do, what they are like, where it is, in what \
order things happen, how many there are.
- Ask only what the captions answer beyond doubt. Answer in a short sentence, with their facts alone. Do not guess.
- Later questions may build on answers before them.""",
    "description": """Write one request for a detailed description of this video, and the description.
- Tell in a few sentences all that the captions tell, in a sensible order, and how it belongs together.
- Where captions disagree, keep to what most of them say. Add nothing that they do not say.""",
    "reasoning": """Write one question about this video that needs thought, and its answer.
- The question is about what lies behind the facts: why something happens, what may come next, how it feels, what it is for. It does not \
give the facts away.
- The answer names the facts of the captions from which it follows, step by step, and says what follows. It claims nothing that they rule \
out.""",
}
TRACK_RULE = {"a": "Speak of what is heard alone: nobody can see this video.", "v": "Speak of what is seen alone: this video has no sound.",
              "va": "Bring what is seen and what is heard together where they belong together."}

EXAMPLES = {
    ("conversation", "a"): [("What animal can be heard?", "A dog can be heard, which barks."),
                            ("What else is heard while it barks?", "Rain is heard while the dog barks.")],
    ("conversation", "v"): [("What is the woman doing?", "The woman is slicing a lemon."),
                            ("Where does she slice it?", "She slices the lemon on a wooden board.")],
    ("conversation", "va"): [("Who is on the stage?", "A man with a guitar is on the stage."),
                             ("What is heard while he plays?", "A crowd is heard, which claps while the man plays the guitar.")],
    ("description", "a"): [("Describe in detail what is heard.", "Rain falls without a pause. A dog barks over the rain.")],
    ("description", "v"): [("Describe the video in detail.", "A woman stands in a kitchen and slices a lemon on a wooden board.")],
    ("description", "va"): [("Tell me in detail what happens.", "A man plays a guitar on a stage, and a crowd claps while he plays.")],
    ("reasoning", "a"): [("Why might the animal be restless?", "Rain is heard, and the dog barks over it. A dog that barks in the rain may "
                          "want to be let in, so it is likely to be restless because it is wet.")],
    ("reasoning", "v"): [("What may the woman be preparing?", "She slices a lemon on a board in a kitchen. Slices of lemon go into drinks "
                          "and onto fish, so she may be preparing one of these.")],
    ("reasoning", "va"): [("How do the people feel about what they see?", "A man plays a guitar on a stage and a crowd claps. People clap "
                           "for what they like, so the crowd is likely to be pleased.")],
}

FORM = 'Reply with one JSON object and nothing else: {"turns": [{"question": "…", "answer": "…"}]}'
TITLES = {"v": "Seen", "a": "Heard"}


@dataclass(frozen=True)
class Context:
    """What is known of a clip."""

    clip: str
    vision: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()

    def captions(self, tracks: str) -> dict[str, tuple[str, ...]]:
        """Track → its captions, of those asked for."""
        return {track: {"v": self.vision, "a": self.audio}[track] for track in "va" if track in tracks}

    def has(self, tracks: str) -> bool:
        """Whether there is a caption of each of these tracks."""
        return all(self.captions(tracks).values())


def prompt(kind: str, tracks: str, context: Context) -> str:
    """The four parts, filled in."""
    fills = {"senses": SENSES[tracks], "about": ABOUT[tracks]}
    captions = "\n".join(f"{TITLES[track]}:\n" + "\n".join(f"- {text}" for text in own) for track, own in context.captions(tracks).items())
    parts = {"ROLE": ROLE.format(**fills), "REQUIREMENT": f"{REQUIREMENT[kind]}\n- {TRACK_RULE[tracks]}\n{FORM}",
             "EXAMPLE": _as_json(EXAMPLES[kind, tracks]), "CONTEXT": captions}
    return "\n\n".join(f"{name}\n{text}" for name, text in parts.items())


def _as_json(pairs: Sequence[tuple[str, str]]) -> str:
    turns = ", ".join(f'{{"question": "{question}", "answer": "{answer}"}}' for question, answer in pairs)
    return f'{{"turns": [{turns}]}}'


def templates_hash() -> str:
    """Says which templates wrote a data set: 12 hexadecimal digits."""
    empty = Context("", ("",), ("",))
    return hashlib.sha256("\0".join(prompt(kind, tracks, empty) for kind in KINDS for tracks in TRACKS).encode()).hexdigest()[:12]
