"""What the language model is told: an instruction, examples, and a clip's captions and subtitle."""

from __future__ import annotations

import hashlib
import json

from omnivast.corpus.fusion.sources import Facts
from omnivast.corpus.fusion.vocabulary import HEARD, SAID, SEEN

Message = dict[str, str]
LONG = ("You are given captions of what is seen in a video clip, captions of what is heard in it, and what is said in it. Write one or two "
        "sentences that tell all three as one scene: what is seen, which sounds are heard, and what the words are about. Use only what the "
        "captions and the words say, keep their nouns as they are, and add nothing. Where captions contradict each other follow the "
        "majority. Do not speak of captions, and give nobody a name. Reply with the sentences alone.")
SHORT = "You join what is seen, heard and said in a clip into one sentence."
EXAMPLES = (
    ("Seen: a woman is slicing tomatoes on a wooden board", "Heard: a knife is chopping", "Said: now add a pinch of salt",
     "A woman is slicing tomatoes on a wooden board while a knife is chopping, and a voice says: now add a pinch of salt."),
    ("Seen: on a snowy hill a boy is falling", "Heard: the sound of an engine", "Said: we had to wait two hours for a ticket",
     "On a snowy hill a boy is falling while the sound of an engine is heard, and a voice says: we had to wait two hours for a ticket."),
    ("Seen: there is a bus driving by on a dusty road", "Heard: you can hear a church bell",
     "Said: did you know that a friend of mine has lost her shoes",
     "There is a bus driving by on a dusty road while a church bell is heard, and a voice says: did you know that a friend of mine has "
     "lost her shoes."),
)
"""Of a clip each: what is seen, heard and said, and its caption."""
LABELS = {SEEN: "Seen", HEARD: "Heard", SAID: "Said"}
STYLES = ("long", "short")


def prompt_of(facts: Facts, style: str, number: int = 0) -> list[Message]:
    """The conversation that ends with this clip.

    ``long``: the instruction in full and all captions that count, for models of a billion parameters or more. ``short``: for those that
    follow examples better than instructions; of each kind one caption, for try ``number`` another one.
    """
    if style == "long":
        lines = [f"{LABELS[name]}:\n" + "\n".join(f"- {text}" for text in kind.texts) for name, kind in facts.kinds.items()]
        return [{"role": "system", "content": LONG}, {"role": "user", "content": "\n".join(lines)}]
    messages = [{"role": "system", "content": SHORT}]
    for *given, caption in EXAMPLES:
        messages += [{"role": "user", "content": "\n".join(given)}, {"role": "assistant", "content": caption}]
    lines = [f"{LABELS[name]}: {kind.texts[number % len(kind.texts)].strip()}" for name, kind in facts.kinds.items()]
    return [*messages, {"role": "user", "content": "\n".join(lines)}]


def prompt_hash(style: str) -> str:
    """Of all that a prompt says beside the clip's own texts."""
    content = [LONG] if style == "long" else [SHORT, EXAMPLES]
    return hashlib.sha256(json.dumps([style, content, LABELS]).encode()).hexdigest()[:12]
