"""The routes: the verbs of the API over HTTP, media files, and the page."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import mimetypes
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from omnivast.data.media.deadline import DeadlineError, within
from omnivast.data.media.errors import MediaError
from omnivast.inference.clips import Clip, ClipError, Clips
from omnivast.inference.index.api import Index
from omnivast.inference.index.query import Part, QueryError
from omnivast.inference.moments import seconds_of
from omnivast.inference.results import Embedding, as_json
from omnivast.inference.service import bodies
from omnivast.inference.service.guard import Guard
from omnivast.inference.service.library import Library
from omnivast.inference.service.metrics import Metrics
from omnivast.inference.service.uploads import Limits, RefusedError, Uploaded, received
from omnivast.inference.service.worker import BusyError, Worker
from omnivast.model.interface import ModelError
from omnivast.version import VERSION

PAGE = Path(__file__).with_name("page")
SEARCHES, LOOKS = 64, 16
"""Searches, and looks at clips, that may wait; more are refused with 503."""
BATCH = 32
"""Texts embedded at once."""
AGAIN = 1
"""Seconds after which a refused client may ask again."""

Result = TypeVar("Result")
Some = TypeVar("Some", bound=bodies.Body)
logger = logging.getLogger("omnivast")


class Reply(JSONResponse):
    """JSON in ASCII, which can hold whatever a client wrote."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


@dataclass
class Service:
    """What the routes share. Texts and searches have a thread of their own, so that no search waits for a clip to be looked at."""

    library: Library
    limits: Limits = field(default_factory=Limits)
    gather: float = 0.002
    """Seconds for which a search waits for others, to be embedded with them."""
    batch: int = BATCH
    """Texts embedded at once; 1: each by itself."""
    metrics: Metrics = field(default_factory=Metrics)
    forms: int = 0
    """Requests with files that are being served."""

    def start(self) -> None:
        """Begin to work."""
        self.folder = Path(tempfile.mkdtemp(prefix="omnivast_"))
        self.searches = Worker("searches", room=SEARCHES, embed=self._embed, gather=self.gather, batch=self.batch)
        self.looks = Worker("looks", room=LOOKS)

    def stop(self) -> None:
        """End, and leave nothing behind."""
        self.library.stop()
        self.searches.stop()
        self.looks.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _embed(self, texts: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(texts), self.batch):
            part = texts[start : start + self.batch]
            rows = self.library.model.embed_texts(part, few_sizes=True)
            found += [rows.rows(slice(place, place + 1)) for place in range(len(part))]
        return found

    @asynccontextmanager
    async def body(self, request: Request, kind: type[Some]) -> AsyncIterator[Some]:
        """The body of a request, whose files are there while this context is open. Raises RefusedError."""
        form = request.headers.get("content-type", "").startswith("multipart/")
        if form and self.forms >= self.limits.at_once:
            raise RefusedError(429, None, f"{self.forms} files are being received; try again", AGAIN)
        self.forms += form
        try:
            async with received(request, self.limits, self.folder) as body:
                yield bodies.parsed(kind, body)
        finally:
            self.forms -= form

    def files(self, paths: Sequence[str], files: Sequence[Uploaded], name: str) -> list[Uploaded]:
        """The clips that a field names: paths in the index, and files of the request."""
        return [*(Uploaded(path, self.library.path(path, name)) for path in paths), *files]

    async def look(self, files: Sequence[Uploaded], use: Callable[[list[Clip]], Result], name: str = "clip",
                   subtitle: str | None = None, seconds: float | None = None) -> Result:
        """``use`` of clips, in the thread for that. ``name``: the field that named them. ``seconds``: how long they may play; None: as the
        limits say. Raises RefusedError."""
        def looked() -> Result:
            with Clips() as opened:
                return use([_opened(opened, file, self.limits.seconds if seconds is None else seconds, subtitle, name) for file in files])

        try:
            return await self.looks.run(lambda: within(self.limits.work, looked))
        except (ClipError, MediaError) as error:
            message = str(error)
            for file in files:
                message = message.replace(str(file.path), file.name)
            raise RefusedError(422, name, message) from None
        except ModelError as error:  # a conversation that a language model cannot be given
            raise RefusedError(422, None, str(error)) from None
        except DeadlineError:
            raise RefusedError(422, name, f"could not be looked at within {self.limits.work:g} s") from None

    def searched(self) -> Index:
        """The index. Raises RefusedError while there is none."""
        if self.library.index is None:
            raise RefusedError(503, None, "the index is still being made" if self.library.state == "indexing" else
                               f"there is no index: {self.library.error}", 5)
        return self.library.index


def _opened(opened: Clips, file: Uploaded, most: float, subtitle: str | None, name: str) -> Clip:
    clip = opened.open(file.path)
    seconds = seconds_of(clip)
    if seconds is not None and seconds > most:
        raise RefusedError(422, name, f"{file.name} plays for {seconds / 60:.0f} minutes; at most {most / 60:.0f} are looked at in a "
                                      "request (the index takes longer files apart into moments)")
    said: dict[str, Any] = {} if subtitle is None else {"said": subtitle, "cues": None}
    return replace(clip, name=file.name, **said)


def create_app(service: Service, *, token: str | None = None, loopback: bool = True) -> FastAPI:
    """The application, for uvicorn or another ASGI server with one process."""
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.stop)

    app = FastAPI(title="OmniVAST", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None,
                  openapi_url="/api/openapi.json", description="Search, caption and question one's own videos, pictures and sounds.")
    app.add_middleware(Guard, token=token, loopback=loopback, metrics=service.metrics, ask=_ask)
    _faults(app)
    _verbs(app, service)
    _state(app, service)
    _files(app, service)
    return app


# -------------------------------------------------------------------------------------------------------------------- routes


def _takes(kind: type[bodies.Body]) -> dict[str, Any]:
    """What OpenAPI says of a route that reads its body itself."""
    schema = kind.model_json_schema()
    name = bodies.FILES[kind]
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    files = {name: {"type": "array", "items": file, "maxItems": Limits.files} if name == "like" else file}
    form = {**schema, "properties": {**schema["properties"], **files}}
    if "weights" in form["properties"]:
        form["properties"]["weights"] = bodies.WEIGHTS_OF_FORM
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": bodies.Fault} for status in statuses}


REFUSALS = _refusals(400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 503)


def _verbs(app: FastAPI, service: Service) -> None:
    library = service.library

    @app.post("/api/search", response_model=bodies.results(bodies.FoundReply), openapi_extra=_takes(bodies.Search), responses=REFUSALS)
    async def search(request: Request) -> Response:
        """The moments that fit best, the best first."""
        async with service.body(request, bodies.Search) as asked:
            _known(library, "ret", "compare clips and texts")
            index = service.searched()
            texts = [(sign, text) for sign, texts in ((1.0, asked.text), (-1.0, asked.without)) for text in texts if text.strip()]
            like = service.files(asked.like, asked.files, "like")
            if not texts and not like and not asked.words.strip():
                raise RefusedError(422, "text", "the query is empty")
            clips = await service.look(like, library.model.embed, "like") if like else []

            def use(rows: Sequence[Any]) -> list[dict[str, Any]]:
                parts = [Part(sign, text=own) for (sign, _), own in zip(texts, rows)] + [Part(1.0, clip=clip.rows) for clip in clips]
                found = index.searcher.search(parts, top=asked.top, weights=asked.weights, words=asked.words,
                                              at_most_false=asked.at_most_false, merge=asked.merge)
                return [as_json(one) for one in found]

            try:
                return Reply({"results": await service.searches.with_texts([text for _, text in texts], use)})
            except QueryError as error:
                raise RefusedError(422, "like" if like else "at_most_false", str(error)) from None

    @app.post("/api/caption", response_model=bodies.results(bodies.CaptionReply), openapi_extra=_takes(bodies.Caption), responses=REFUSALS)
    async def caption(request: Request) -> Response:
        """What the model says of a clip."""
        async with service.body(request, bodies.Caption) as asked:
            _known(library, "cap", "write captions", asked.group)
            files = service.files([asked.clip] if asked.clip else [], asked.files, "clip")
            found = await service.look(files, lambda clips: library.model.caption(
                clips, group=asked.group, n=asked.n, beams=asked.beams, sample=asked.sample, seed=asked.seed), subtitle=asked.subtitle)
            return Reply({"results": [as_json(one) for one in found]})

    @app.post("/api/answer", response_model=bodies.results(bodies.AnswerReply), openapi_extra=_takes(bodies.Answer), responses=REFUSALS)
    async def answer(request: Request) -> Response:
        """Answers to questions about a clip."""
        async with service.body(request, bodies.Answer) as asked:
            _known(library, "qa", "answer questions", asked.group)
            if not all(question.strip() for question in asked.question):
                raise RefusedError(422, "question", "a question is a text that is not empty")
            files = service.files([asked.clip] if asked.clip else [], asked.files, "clip")
            found = await service.look(files, lambda clips: library.model.answer(clips, asked.question, group=asked.group,
                                                                                 beams=asked.beams), subtitle=asked.subtitle)
            return Reply({"results": [as_json(one) for own in found for one in own]})

    @app.post("/api/chat", response_model=bodies.results(bodies.AnswerReply), openapi_extra=_takes(bodies.Chat), responses=REFUSALS)
    async def chat(request: Request) -> Response:
        """The answer to the last question of a conversation about a clip."""
        async with service.body(request, bodies.Chat) as asked:
            _known(library, "chat", "converse", asked.group)
            if not all(question.strip() for question in asked.question):
                raise RefusedError(422, "question", "a question is a text that is not empty")
            if len(asked.answer) != len(asked.question) - 1:
                raise RefusedError(422, "answer", f"{len(asked.question)} question(s) and {len(asked.answer)} answer(s): expected an "
                                                  "answer to each question but the last")
            files = service.files([asked.clip] if asked.clip else [], asked.files, "clip")
            found = await service.look(files, lambda clips: [one.ask(asked.question[-1]) for one in library.model.chat(
                clips, group=asked.group, beams=asked.beams, so_far=list(zip(asked.question, asked.answer)))], subtitle=asked.subtitle)
            return Reply({"results": [as_json(one) for one in found]})

    @app.post("/api/embed", response_model=bodies.results(bodies.EmbedReply), openapi_extra=_takes(bodies.Embed), responses=REFUSALS)
    async def embed(request: Request) -> Response:
        """Vectors of texts (by "text"), or of a clip (by group)."""
        async with service.body(request, bodies.Embed) as asked:
            _known(library, "ret", "compare clips and texts")
            files = service.files([asked.clip] if asked.clip else [], asked.files, "clip")
            found = await service.look(files, library.model.embed, subtitle=asked.subtitle) if files else []
            if asked.text:
                def use(rows: Sequence[Any]) -> list[Embedding]:
                    return [Embedding(text, {"text": own["vector"][0].numpy()} if "vector" in own.tensors else {})
                            for text, own in zip(asked.text, rows)]

                found = [*await service.searches.with_texts(asked.text, use), *found]
            return Reply({"results": [as_json(one) for one in found]})


def _known(library: Library, objective: str, does: str, group: str | None = None) -> None:
    groups = library.model.groups(objective)
    if not groups:
        raise RefusedError(422, None, f"this model was not trained to {does}")
    if group is not None and group not in [one.key for one in groups]:
        known = ", ".join(one.key for one in groups)
        raise RefusedError(422, "group", f"the model was not trained to {does} by '{group}'; it was by {known}")


def _state(app: FastAPI, service: Service) -> None:
    library = service.library

    @app.get("/api/index", response_model=bodies.IndexReply, responses=_refusals(401, 403, 421))
    async def index() -> Response:
        """What is indexed, and how far indexing is."""
        return Reply(library.status())

    @app.post("/api/index", response_model=bodies.AddReply, openapi_extra=_takes(bodies.Add), responses={**REFUSALS, **_refusals(409, 507)})
    async def update(request: Request) -> Response:
        """Bring the index up to date with its folder, after adding the files of a form to it."""
        async with service.body(request, bodies.Add) as asked:
            if asked.files and library.uploads:  # what is no clip is not kept
                await service.look(asked.files, lambda clips: None, seconds=math.inf)
            added = [await asyncio.to_thread(library.add, file) for file in asked.files]
            library.update()
            return Reply({**library.status(), "added": added})

    @app.get("/api/health", response_model=bodies.Health)
    async def health() -> Response:
        """That the service lives."""
        return Reply({"status": "ok", "version": VERSION})

    @app.get("/api/metrics", response_class=PlainTextResponse, responses=_refusals(401, 403, 421))
    async def metrics() -> Response:
        """For Prometheus."""
        searches = service.searches
        return PlainTextResponse(service.metrics.text({
            "omnivast_searches_waiting": ("Searches in the queue.", searches.waiting),
            "omnivast_looks_waiting": ("Looks at clips in the queue.", service.looks.waiting),
            "omnivast_text_batches_total": ("Forward passes of texts.", searches.batches),
            "omnivast_texts_total": ("Texts in them.", searches.texts),
            "omnivast_forms": ("Requests with files being served.", service.forms),
            "omnivast_index_files": ("Files in the index.", len(library.paths)),
            "omnivast_index_moments": ("Moments in the index.", library.moments)}))


def _files(app: FastAPI, service: Service) -> None:
    @app.head("/media/{path:path}", include_in_schema=False)
    @app.get("/media/{path:path}", response_class=FileResponse,
             responses={206: {"description": "The bytes asked for by Range."}, **_refusals(401, 403, 404, 416, 421)})
    async def media(path: str) -> Response:
        """A file of the index, whole or in ranges of bytes."""
        file = await asyncio.to_thread(service.library.path, path, "path")
        kind = mimetypes.guess_type(file.name)[0] or ""
        safe = kind if kind.split("/")[0] in ("video", "audio", "image") and kind != "image/svg+xml" else "application/octet-stream"
        return FileResponse(file, media_type=safe, headers={"cache-control": "private, max-age=60"})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/page", StaticFiles(directory=PAGE), name="page")


def _ask(again: bool) -> str:
    """The page that asks for the token."""
    html = (PAGE / "token.html").read_text(encoding="utf-8")
    return html.replace("{{again}}", "That is not the token." if again else "")


# -------------------------------------------------------------------------------------------------------------------- faults


def _faults(app: FastAPI) -> None:
    def told(status: int, field: str | None, message: str, retry_after: int | None = None) -> Response:
        return Reply({"field": field, "error": message}, status, {"retry-after": str(retry_after)} if retry_after else None)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return told(error.status, error.field, error.message, error.retry_after)

    async def busy(_: Request, error: Exception) -> Response:
        return told(503, None, "too many requests are waiting; try again", AGAIN)

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        answer = told(error.status_code, None, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    async def failed(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return told(500, None, "the service failed; its log says how")

    for kind, handler in ((RefusedError, refused), (BusyError, busy), (HTTPException, http), (Exception, failed)):
        app.add_exception_handler(kind, handler)
