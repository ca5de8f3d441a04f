"""A row of a chat corpus → the turns of one conversation about one clip, whatever form the row has. Knows no model.

Forms: ``messages`` (role, content), LLaVA's ``conversations`` (from, value), ``question``/``answer``. What is wrong with a row is one error
that names the row, what was expected and the nearest valid choice.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omnivast.config.conversation import Conversation, Turn
from omnivast.config.tasks import Modality
from omnivast.config.words import LIKELY, asked, did_you_mean
from omnivast.data.annotations.rows import AnnotationError, typename

PLACEHOLDERS = {"<VIS>": "v", "<AUD>": "a", "<AUD_VIS>": "va", "<video>": "v", "<image>": "v", "<audio>": "a"}
"""What stands for the media in the text of a row, and the tracks that it asks for."""
MEDIA_KEYS = {"videos": "va", "images": "v", "audios": "a", "video": "va", "image": "v", "audio": "a"}
"""Fields that name media → the tracks that such a file may have."""
CLIP_KEYS = ("clip_id", "video_id", "image_id", "id")
"""Fields that name a clip in the dataset's folders."""
OWN_TRACK = {"videos": "v", "images": "v", "audios": "a", "video": "v", "image": "v", "audio": "a"}
"""The same fields → the tracks that a row with them, but without a placeholder, is about."""
FORMS = ("messages", "conversations", "question")
KEYS = (*FORMS, "answer", "modality", "system", "type", "subtitle", "synonyms", *MEDIA_KEYS)
"""Fields with a meaning. A row may have others, which evaluators of one's own may know, but none that one of these is misspelt as."""
ROLES = {"messages": {"system": "system", "user": "user", "assistant": "assistant"},
         "conversations": {"system": "system", "human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant"}}
"""Form → roles as it writes them, and ours."""
_PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS)))
_LIKE_ONE = re.compile(r"<([A-Za-z_]{3,12})>")


def is_conversation(row: Mapping[str, Any]) -> bool:
    """Whether a row has one of the forms; a row of captions has none."""
    return any(key in row for key in FORMS)


def read_conversation(row: Mapping[str, Any], where: str, group: Iterable[Modality] = ()) -> Conversation:
    """The conversation of a row.

    Args:
        row: a JSON object in one of the forms. The tracks that it is about are those of its ``modality`` (letters v, a, s; "": none), else
            of its placeholder, else of its media fields, else of ``group``. But for ``modality``, which is exact, a subtitle of the row
            is given too.
        where: for messages: ``file: row 3 (id 'x')``.
        group: the tracks of the dataset's task.

    Raises:
        AnnotationError: one sentence that says where, what is wrong, and what was expected.
    """
    forms = [key for key in FORMS if key in row]
    if len(forms) != 1:
        found = f"has both '{forms[0]}' and '{forms[1]}'" if forms else "has no conversation"
        raise AnnotationError(f"{where} {found}; expected one of {', '.join(FORMS)}")
    form = forms[0]
    for key in row:
        near = difflib.get_close_matches(key, KEYS, n=1, cutoff=LIKELY) if key not in (*KEYS, *CLIP_KEYS) else []
        if near and near[0] not in row:
            raise AnnotationError(f"{where}: unknown field '{key}'.{asked(near)} To leave it unread: \"ignore_fields\": [\"{key}\"]")
    messages = _asked(row, where) if form == "question" else _messages(row[form], form, where)
    system, turns = _parted(messages, form, where)
    own = row.get("system")
    if own is not None and not isinstance(own, str):
        raise AnnotationError(f"{where}: 'system' must be a string, found {typename(own)}")
    if own and system:
        raise AnnotationError(f"{where}: two texts of the system, in 'system' and in '{form}'; expected one")
    system = (own or "").strip() or system
    turns, named = _without_placeholders(turns, where)
    modalities = _modalities(row, form, named, frozenset(group), where)
    kind = row.get("type")
    if kind is not None and not isinstance(kind, str):
        raise AnnotationError(f"{where}: 'type' must be a string, found {typename(kind)}")
    others = row.get("synonyms")
    if others is not None and not (isinstance(others, list) and all(isinstance(other, str) for other in others)):
        raise AnnotationError(f"{where}: 'synonyms' must be a list of strings, answers that are as right, found {typename(others)}")
    for number, turn in enumerate(turns):
        if not turn.text:
            raise AnnotationError(f"{where}: turn {number} ({turn.role}) is empty; expected a text")
    return Conversation(tuple(turns), modalities, system, kind)


def _messages(value: Any, form: str, where: str) -> list[tuple[str, str]]:
    """(role, text) of ``messages`` or ``conversations``."""
    role_key, text_key = ("role", "content") if form == "messages" else ("from", "value")
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else typename(value)
        raise AnnotationError(f"{where}: '{form}' must be a list of turns, found {found}")
    messages = []
    for number, turn in enumerate(value):
        place = f"{where}: turn {number} of '{form}'"
        if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
            found = f"an object with {', '.join(map(repr, turn)) or 'nothing'}" if isinstance(turn, dict) else typename(turn)
            raise AnnotationError(f"{place}: expected an object with '{role_key}' and '{text_key}', found {found}")
        role, text = turn[role_key], turn[text_key]
        if role not in ROLES[form]:
            raise AnnotationError(f"{place}: unknown role {role!r}; valid are {', '.join(list(ROLES[form])[:3])}."
                                  f"{did_you_mean(str(role), ROLES[form])}")
        if not isinstance(text, str):
            raise AnnotationError(f"{place}: '{text_key}' must be a string, found {typename(text)}")
        messages.append((ROLES[form][role], text))
    return messages


def _asked(row: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """(role, text) of ``question`` and ``answer``, each a string or a list with as many entries."""
    both = []
    for key in ("question", "answer"):
        value = row.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        wrong = next((entry for entry in values if isinstance(entry, bool) or not isinstance(entry, (str, int, float))), None)
        if wrong is not None or None in values:
            raise AnnotationError(f"{where}: '{key}' must be a string or a list of strings, found {typename(wrong)}")
        both.append([str(entry) for entry in values])
    questions, answers = both
    if len(questions) != len(answers) or not questions:
        raise AnnotationError(f"{where}: {len(questions)} question(s) but {len(answers)} answer(s); expected as many of each, "
                              "the turns of one conversation")
    return [turn for question, answer in zip(questions, answers) for turn in (("user", question), ("assistant", answer))]


def _parted(messages: Sequence[tuple[str, str]], form: str, where: str) -> tuple[str | None, list[Turn]]:
    """The system's text, and the turns, which begin with the user's and take turns up to an answer."""
    system = messages[0][1].strip() or None if messages[0][0] == "system" else None
    spoken = messages[1:] if messages[0][0] == "system" else messages
    names = {ours: theirs for theirs, ours in reversed(ROLES.get(form, {}).items())}
    for number, (role, _) in enumerate(spoken):
        expected = "assistant" if number % 2 else "user"
        if role != expected:
            place = number + len(messages) - len(spoken)
            only = " (the system's text stands first, once)" if role == "system" else ""
            raise AnnotationError(f"{where}: turn {place} of '{form}' is the {names[role]}'s; expected the {names[expected]}'s: they take "
                                  f"turns, the {names['user']} first{only}")
    if not spoken or len(spoken) % 2:
        raise AnnotationError(f"{where}: an odd number of turns ({len(spoken)}): the last question has no answer; expected each "
                              "question to be followed by its answer" if spoken else f"{where}: '{form}' has no turn but the system's")
    turns = [Turn("assistant" if role == "assistant" else "user", text) for role, text in spoken]
    return system, turns


def _without_placeholders(turns: Sequence[Turn], where: str) -> tuple[list[Turn], str]:
    """The turns without placeholders, and the tracks that these ask for ("" where there is none). They stand at the beginning or at the
    end of the first question, where LLaVA has them."""
    kept, named = [], ""
    for number, turn in enumerate(turns):
        text = turn.text.strip()
        while number == 0 and (found := _at_an_end(text)):
            if set(PLACEHOLDERS[found]) & set(named):
                raise AnnotationError(f"{where}: {found} asks for media that a placeholder before it asks for; expected each once: "
                                      "one clip stands before a conversation")
            named += PLACEHOLDERS[found]
            text = (text.removeprefix(found) if text.startswith(found) else text.removesuffix(found)).strip()
        other = _PLACEHOLDER.search(text)
        if other:
            raise AnnotationError(f"{where}: {other.group()} within turn {number} ({turn.role}); expected placeholders at the beginning "
                                  "of the first question alone")
        if number == 0 and (like := _LIKE_ONE.match(text)) and (hint := did_you_mean(like.group(1), [p[1:-1] for p in PLACEHOLDERS])):
            raise AnnotationError(f"{where}: unknown placeholder {like.group()}; valid are {', '.join(PLACEHOLDERS)}.{hint}")
        kept.append(Turn(turn.role, text))
    return kept, named


def _at_an_end(text: str) -> str | None:
    return next((name for name in PLACEHOLDERS if text.startswith(name) or text.endswith(name)), None)


def _modalities(row: Mapping[str, Any], form: str, named: str, group: frozenset[Modality], where: str) -> frozenset[Modality]:
    """The tracks that are given, checked against what the row has."""
    files = [key for key in MEDIA_KEYS if row.get(key)]
    # In LLaVA's form "id" numbers the rows; of rows without media, which are text alone, too.
    names_clip = bool(files) or any(row.get(key) is not None for key in CLIP_KEYS if (form, key) != ("conversations", "id"))
    letters = row.get("modality")
    if letters is not None:
        return _letters(letters, named, where)
    spoken = frozenset([Modality.SUBTITLE] if isinstance(row.get("subtitle"), str) and row["subtitle"].strip() else [])
    if named:
        possible = {letter for key in files for letter in MEDIA_KEYS[key]}
        lacking = [letter for letter in named if files and letter not in possible]
        if lacking or not names_clip:
            shown = next(name for name, tracks in PLACEHOLDERS.items() if (lacking or named)[0] in tracks)
            has = f"has only {', '.join(files)}" if files else "names no media"
            raise AnnotationError(f"{where}: a placeholder without media: the text asks for {Modality((lacking or named)[0]).word} "
                                  f"(as {shown} does), but the row {has}; expected one of {', '.join(MEDIA_KEYS)}, or video_id")
        return frozenset(map(Modality, named)) | spoken
    if files and form == "conversations":
        raise AnnotationError(f"{where}: media without a placeholder: the row has '{files[0]}', but its first question has none of "
                              f"{', '.join(PLACEHOLDERS)}; write it there, or set 'modality'")
    if files:
        return frozenset(Modality(letter) for key in files for letter in OWN_TRACK[key]) | spoken
    return ((group - {Modality.SUBTITLE}) if names_clip else frozenset()) | spoken


def _letters(value: Any, named: str, where: str) -> frozenset[Modality]:
    valid = {m.value for m in Modality}
    if not isinstance(value, str) or not set(value) <= valid or len(set(value)) < len(value):
        raise AnnotationError(f"{where}: 'modality' {value!r} is not understood; expected letters of v (vision), a (audio) and s "
                              "(subtitle), each at most once, or \"\" for text alone")
    if named and set(named) != set(value) - {"s"}:
        raise AnnotationError(f"{where}: 'modality' is '{value}', but the placeholder asks for '{named}'; expected both to say the same")
    return frozenset(map(Modality, value))
