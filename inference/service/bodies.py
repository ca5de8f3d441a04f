"""What the routes take and give: the fields of the API's methods, with bounds on what one request may ask for.

A body is JSON, or a form (``multipart/form-data``) with the same fields and with files: ``curl -F clip=@clip.mp4 -F question='what is
heard?' …``. A list in a form is the field given several times; weights are ``seen=1,heard=0.5`` or JSON.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, create_model, field_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from omnivast.config.tasks import Group, TaskError
from omnivast.inference.index.sure import QueryError
from omnivast.inference.index.weights import WEIGHTS, track_weights
from omnivast.inference.service.uploads import Received, RefusedError, Uploaded

Text = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]
Texts = Annotated[list[Text], Field(max_length=16)]
Files = SkipJsonSchema[list[Uploaded]]
WEIGHT = {"type": "number", "minimum": 0}
OBJECT = {"type": "object", "properties": dict.fromkeys(WEIGHTS, WEIGHT), "additionalProperties": False, "minProperties": 1}
Weights = Annotated[dict[str, float] | None, WithJsonSchema({"anyOf": [OBJECT, {"type": "null"}]})]
WEIGHTS_OF_FORM = {"type": "string", "description": "Such as seen=1,heard=0.5; or JSON.", "examples": ["seen=1,heard=0.5"]}


class Body(BaseModel):
    """Fields that are not known are refused."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


def _listed(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


class Search(Body):
    """What is looked for: texts, clips, words that are said; at least one of them."""

    text: Texts = Field([], description="What is looked for; several texts count alike.", examples=[["a dog barks while a train passes"]])
    like: Texts = Field([], description="Paths of results, or files of a form, that results are to be like.")
    without: Texts = Field([], description="Texts that results are not to be like.")
    words: Text = Field("", description="Moments in which some of these words are said come further up.")
    top: int = Field(10, ge=1, le=1000)
    weights: Weights = Field(None, description="How much seen, heard and said count, such as {\"seen\": 1}; those not "
                                                               "named do not. None: all the same.")
    at_most_false: float | None = Field(None, gt=0, lt=1, description="Such as 0.01: find nothing rather than what a text about something "
                                                                      "else would find as well.")
    merge: bool = Field(True, description="Of moments of a file that overlap, only the best.")
    files: Files = Field([], exclude=True)

    _lists = field_validator("text", "like", "without", mode="before")(_listed)

    @field_validator("weights", mode="before")
    @classmethod
    def _weights(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        try:
            return json.loads(given) if given.lstrip().startswith("{") else dict(part.strip().split("=", 1) for part in given.split(","))
        except (ValueError, RecursionError):
            raise PydanticCustomError("weights", "expected weights such as seen=1,heard=0.5") from None

    @field_validator("weights")
    @classmethod
    def _tracks(cls, given: dict[str, float] | None) -> dict[str, float] | None:
        try:
            track_weights(given)
        except QueryError as error:
            raise PydanticCustomError("weights", "{why}", {"why": str(error)}) from None
        return given


class OneClip(Body):
    """A clip: the path of one in the index, or a file of a form."""

    clip: Text = Field("", description="The path of a result, or a file of a form.")
    subtitle: Annotated[str, Field(max_length=100_000)] | None = Field(None, description="What is said, in place of a file beside it.")
    files: Files = Field([], exclude=True)


class OfGroup(OneClip):
    """A clip, and which of its tracks to look at."""

    group: Text | None = Field(None, description="Tracks to look at: v (seen), a (heard), s (said), such as va; None: all there are.")

    @field_validator("group")
    @classmethod
    def _group(cls, given: str | None) -> str | None:
        try:
            return Group.parse(given).key if given else None
        except TaskError as error:
            raise PydanticCustomError("group", "{why}", {"why": str(error)}) from None


class Caption(OfGroup):
    """How it is to be captioned."""

    n: int = Field(1, ge=1, le=10, description="Captions.")
    beams: int | None = Field(None, ge=1, le=10, description="Width of the search; 1: greedy; None: as the model is tested.")
    sample: bool = Field(False, description="Draw captions instead of searching for the likeliest.")
    seed: int = Field(0, ge=0, lt=2**31)


class Answer(OfGroup):
    """The questions about it."""

    question: Annotated[list[Annotated[str, Field(min_length=1, max_length=2000)]], Field(min_length=1, max_length=16)]
    beams: int | None = Field(None, ge=1, le=10)

    _lists = field_validator("question", mode="before")(_listed)


class Chat(OfGroup):
    """The next question of a conversation about it. The service keeps nothing: the client sends what was said before."""

    question: Annotated[list[Annotated[str, Field(min_length=1, max_length=2000)]], Field(
        min_length=1, max_length=64, description="All questions so far, the one to be answered last.")]
    answer: Annotated[list[Text], Field(max_length=63)] = Field([], description="The answers to all questions but the last.")
    beams: int | None = Field(None, ge=1, le=10)

    _lists = field_validator("question", "answer", mode="before")(_listed)


class Embed(OneClip):
    """Texts, or a clip, or both."""

    text: Annotated[list[Text], Field(max_length=256)] = []

    _lists = field_validator("text", mode="before")(_listed)


class Add(Body):
    """Files to add to the folder; none: it is looked through for what is new."""

    clip: list[Text] = Field([], max_length=0, description="Files of a form.")
    files: Files = Field([], exclude=True)


Some = TypeVar("Some", bound=Body)
FILES: dict[type[Body], str] = {Search: "like", Caption: "clip", Answer: "clip", Chat: "clip", Embed: "clip", Add: "clip"}
"""The field in which files are given."""


def parsed(kind: type[Some], body: Received) -> Some:
    """The body as ``kind``. Raises RefusedError that names the field."""
    fields = {name: _of_form(kind, name, value) for name, value in body.fields.items()} if body.form else dict(body.fields)
    if "files" in fields:
        raise RefusedError(422, "files", "there is no such field")
    for name in body.files:
        if name != FILES[kind]:
            raise RefusedError(422, name[:100], f"no file is expected here; files go into '{FILES[kind]}'")
    files = body.files.get(FILES[kind], [])
    if issubclass(kind, OneClip):
        if len(files) > 1 or files and fields.get("clip"):
            raise RefusedError(422, "clip", "one clip at a time")
        if not files and not fields.get("clip") and not fields.get("text"):
            raise RefusedError(422, "clip", "a clip is missing: the path of one in the index, or a file of a form")
    try:
        made = kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"]))[:100]
        raise RefusedError(422, name or None, first["msg"]) from None
    return made.model_copy(update={"files": files})


def _of_form(kind: type[Body], name: str, values: list[str]) -> Any:
    """Of a field that is given several times the last, but for what is a list."""
    known = kind.model_fields.get(name)
    return values if known is not None and "list" in str(known.annotation) else values[-1]


# ------------------------------------------------------------------------------------------------------------------- replies


class Fault(BaseModel):
    """Why a request was refused."""

    field: str | None = Field(description="The field of the request that is wrong; null: none of them.")
    error: str


class FoundReply(BaseModel):
    """A moment that was found."""

    path: str
    start: float
    end: float
    score: float
    probability: float | None
    tracks: dict[str, float] = Field(description="The score by what is seen, heard, said alone.")
    changes: dict[str, float] = Field(description="How much of the score goes without the track.")
    by: str | None = Field(description="The track without which most of it goes.")
    second: float | None
    match: float | None
    said: str
    row: int


class CaptionReply(BaseModel):
    """What the model says of a clip."""

    name: str
    text: str
    group: str
    candidates: list[str]
    scores: list[float | None] = Field(description="Log-probability of each candidate; of a beam search over its length to a power.")
    missing: list[str]


class AnswerReply(BaseModel):
    """The answer to a question."""

    name: str
    question: str
    text: str
    group: str
    score: float | None = Field(description="Log-probability of the answer.")
    missing: list[str]


class EmbedReply(BaseModel):
    """Vectors of a clip by group, or of a text by "text"."""

    name: str
    vectors: dict[str, list[float]]
    missing: list[str]


class IndexReply(BaseModel):
    """The index, and how far it is."""

    state: str = Field(description="ready, indexing or failed")
    error: str | None
    files: int
    moments: int
    done: int = Field(description="Files read of those that are new or changed.")
    total: int
    faults: dict[str, str] = Field(description="Files that could not be read, at most 50 of them.")
    tracks: list[str] = Field(description="What a search can weigh: seen, heard, said.")
    verbs: list[str] = Field(description="What the model was trained for: search, caption, answer, chat.")
    uploads: bool = Field(description="Whether files may be added.")
    follows: bool = Field(description="Whether it is of a folder, and can be brought up to date with it.")
    model: str


class AddReply(IndexReply):
    """The same, and the paths of the files that were added."""

    added: list[str]


class Health(BaseModel):
    """That the service lives."""

    status: str
    version: str


def results(kind: type[BaseModel]) -> type[BaseModel]:
    """``{"results": [kind, …]}``"""
    return create_model(f"{kind.__name__}s", results=(list[kind], ...))  # type: ignore[valid-type]
