"""An index of one's own files: make it, keep it up to date, search it.

    index = omnivast.Index("videos/", model)
    for found in index.search("a dog barks while a train passes", top=10):
        print(found.path, found.start, found.end, found.probability)
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnivast.config.paths import as_path, looked_up
from omnivast.inference.background import recombined
from omnivast.inference.index import again
from omnivast.inference.index.ann import Ann, by_products, check_ann, is_due
from omnivast.inference.index.build import Report, describe, find, update
from omnivast.inference.index.export import Format, export_index
from omnivast.inference.index.known import FOLDER, Known, own_moments, read_texts, texts_to_fit, write_texts
from omnivast.inference.index.query import Found, Part, Searcher
from omnivast.inference.index.rerank import Fit, check_rerank, fit_weight, read_fit, reranked, write_fit
from omnivast.inference.index.store import META, BadIndexError, Store, check_same, read_meta
from omnivast.inference.index.weights import track_weights
from omnivast.inference.moments import STRIDE, WINDOW
from omnivast.inference.pipeline import Pipeline, load
from omnivast.model.interface import Rows
from omnivast.training.checkpoints.checkpoint import on_main
from omnivast.utils import distributed
from omnivast.utils.files import write_atomically

HIDDEN = ".omnivast"
"""The index of a folder lies in this folder inside it, unless another place is named."""
BACKGROUND = "background.json"
TEXTS = 1000
"""Background texts that are kept, at most."""


class Index:
    """The index of the media files below a folder."""

    def __init__(self, source: str | Path, model: Pipeline | str | Path | None = None, *, folder: str | Path | None = None,
                 media: str | Path | None = None, window: float = WINDOW, stride: float = STRIDE,
                 background: Iterable[str] | None = None, fresh: bool = False, ann: bool | None = None,
                 on_progress: Callable[[int, int], None] | None = None) -> None:
        """Make the index of ``source``, or bring it up to date.

        Args:
            source: a folder of videos, pictures and sounds, with all folders below it; or a list of them (.txt, .csv, .json), which may
                give their subtitles.
            model: what embeds them, loaded or where it is; None: the model of the index that is there.
            folder: where the index lies; None: ``.omnivast`` inside ``source``.
            media: where the files of a list lie; None: where it lies, or the working directory.
            window: seconds of a moment of long files. stride: seconds from one to the next.
            background: texts about other things, by which it is told what a score means; None: captions that the model was trained on, as
                far as they are at hand.
            fresh: throw away what is there.
            ann: make the approximate index as well (extra ``ann``); None: where there are more than ``EXACT_UP_TO`` moments. Once there it
                is made anew when a tenth of it has changed.
            on_progress: called with (files done, files to do) after each; what it raises ends the work, which the next call goes on with.
        """
        path = as_path(str(source)).resolve()
        if not path.exists():
            raise BadIndexError(f"{path}: no such folder{looked_up(str(source))}")
        if not 0 < stride <= window:
            raise BadIndexError(f"window {window:g} s and stride {stride:g} s: the stride is more than 0 and at most the window")
        if folder is None and not path.is_dir():
            raise BadIndexError(f"{path} is a list of clips: name the folder of its index as well")
        self.folder = as_path(str(folder)) if folder else path / HIDDEN
        if fresh and distributed.is_main() and (self.folder / META).is_file():
            shutil.rmtree(self.folder)
        self.model = loaded(model, self.folder)
        if ann:
            check_ann(self.model.model)
        files = on_main(lambda: find(path, as_path(str(media)) if media else None))
        meta = describe(self.model.parts, self.model.place, files.root, window, stride)
        with Store.write(self.folder, meta) as store:
            on_main(lambda: _keep_background(self.folder, self.model, background))
            self.report: Report = update(store, self.model.parts, files, on_progress)
            on_main(lambda: self._make_ann(store, ann))
        self._open()

    def _make_ann(self, store: Store, asked: bool | None) -> None:
        if is_due(Ann.of(self.folder), store.rows, len(store), asked):
            searcher = Searcher(store, self.model.model, self._embedded(_background(self.folder)))
            if by_products(self.model.model):
                searcher.make_ann()

    @classmethod
    def open(cls, folder: str | Path, model: Pipeline | None = None) -> Index:
        """An index that is there, to be searched as it is. ``folder``: the index, or the folder of files that it lies in."""
        index = cls.__new__(cls)
        index.folder = place_of(folder)
        meta = read_meta(index.folder)
        index.model = model or loaded(None, index.folder)
        check_same(index.folder, meta, describe(index.model.parts, index.model.place, Path(meta.root), meta.window, meta.stride))
        index.report = Report()
        index._open()
        return index

    def _open(self) -> None:
        self.store = Store.read(self.folder)
        texts, known = _background(self.folder), self._known()
        self.searcher = Searcher(self.store, self.model.model, self._embedded(texts), Ann.of(self.folder),
                                 recombined=self._embedded(recombined(texts, len(texts))), absent=known.absent if known else None)
        if known:
            known.searcher.variances = self.searcher.variances

    def _embedded(self, texts: list[str]) -> Rows | None:
        return self.model.embed_texts(texts) if texts else None

    def _known(self) -> Known | None:
        """The clips whose texts are known; None where it was not fitted."""
        texts = read_texts(self.folder)
        if not texts:
            return None
        searcher = Searcher(Store.read(self.folder / FOLDER), self.model.model)
        return Known(searcher, self.model.embed_texts([text for text, _ in texts]), own_moments(searcher, texts))

    @property
    def ann(self) -> Ann | None:
        """The approximate index by which it is searched; ``ann.facts`` says what that finds. None: every moment is compared."""
        return self.searcher.ann

    def __len__(self) -> int:
        return len(self.store)

    @property
    def root(self) -> Path:
        """The folder that the paths of results are below."""
        return Path(self.store.meta.root)

    def search(self, text: str | Sequence[str] = (), *, like: Any = None, without: str | Sequence[str] = (), words: str = "",
               top: int = 10, weights: Mapping[str, float] | None = None, at_most_false: float | None = None,
               merge: bool = True, rerank: int = 0, explain: bool = False) -> list[Found]:
        """The moments that fit best, the best first.

        Args:
            text: what is looked for; several texts count alike.
            like: a clip (anything that ``Pipeline.embed`` takes), or a list of them, that results are to be like.
            without: texts that results are not to be like.
            words: moments in which some of these words are said come further up.
            weights: of "seen", "heard" and "said", such as ``{"seen": 1, "heard": 0.5}``; None: all the same.
            at_most_false: such as 0.01: return nothing rather than what a text about something else would find as well.
            merge: of moments of a file that overlap, only the best.
            rerank: let the matching head order the best so many anew, such as 50; see :meth:`fit`.
            explain: look for the second within each result that fits best (``Found.second``); the results are read again.
        """
        texts = [(sign * 1.0, one) for sign, texts in ((1, text), (-1, without))
                 for one in ([texts] if isinstance(texts, str) else texts) if one.strip()]
        if rerank:
            check_rerank(self.model.parts, rerank, [one for _, one in texts], words)
        parts = [Part(weight, text=self.model.embed_texts(one)) for weight, one in texts]
        clips = [] if like is None else like if isinstance(like, list | tuple) else [like]
        parts += [Part(1.0, clip=embedding.rows) for embedding in self.model.embed(list(clips))]
        by_track = track_weights(weights)
        fit = read_fit(self.folder, by_track) if rerank else None
        found = self.searcher.search(parts, top=max(top, rerank if fit else 0), weights=weights, words=words,
                                     at_most_false=at_most_false, merge=merge)
        if fit:
            found = reranked(self.model.parts, self.searcher, texts, by_track, found, rerank, fit.weight)
        return again.explain(self.model.parts, self.searcher, parts, by_track, found[:top]) if explain else found[:top]

    def fit(self, file: str | Path | None = None, *, media: str | Path | None = None) -> Fit | None:
        """Learn from clips whose texts are known, and keep with the index, how often something is found for a text whose clip is not there
        (``probability``, ``at_most_false``) and, of a model with a matching head, how much that counts in re-ranking. Returns the latter.

        Args:
            file: a list of clips with captions, as a test of retrieval reads it; None: that of the ``val`` list of the model's own run.
                Clips like those of the index, which the model was not trained on.
            media: where its files lie; None: where it lies, or the working directory.
        """
        source, own_media, texts = texts_to_fit(self.model.parts, file)
        where, meta = as_path(str(media)) if media else own_media, self.store.meta
        Index(source, self.model, folder=self.folder / FOLDER, media=where, window=meta.window, stride=meta.stride, background=(),
              fresh=True).store.close()
        write_texts(self.folder, texts)
        self._open()
        known = self._known()
        if known is None or not self.model.model.can_match:
            return None
        fit = fit_weight(self.model.parts, known.searcher, self.model.embed_texts, texts, str(source))
        write_fit(self.folder, fit)
        return fit

    def export(self, path: str | Path, format: Format | None = None, group: str | None = None) -> Path:
        """Write the moments with their vectors as a Parquet table or a FAISS index; see
        :func:`omnivast.inference.index.export.export_index`."""
        return export_index(self.store, path, format, group)


def has_index(folder: Path) -> bool:
    """Whether an index lies in a folder, or inside it."""
    return any((place / META).is_file() for place in (folder, folder / HIDDEN))


def place_of(folder: str | Path) -> Path:
    """The index in a folder, or inside the folder of files. Raises BadIndexError that says how to make one."""
    path = as_path(str(folder))
    for place in (path, path / HIDDEN):
        if (place / META).is_file():
            return place
    if not path.is_dir():
        raise BadIndexError(f"{path}: no such folder{looked_up(path)}")
    raise BadIndexError(f"{path}: there is no index here; make one: omnivast index {path} --model RUN")


def loaded(model: Pipeline | str | Path | None, folder: Path) -> Pipeline:
    """The model, loaded if need be; None: that of the index in ``folder``."""
    if isinstance(model, Pipeline):
        return model
    return load(model if model is not None else read_meta(folder).model)


def _keep_background(folder: Path, model: Pipeline, given: Iterable[str] | None) -> None:
    """Write the texts down: the same model with the same texts tells the same of a score."""
    path = folder / BACKGROUND
    if given is None and path.is_file():
        return
    texts = list(dict.fromkeys(text for text in (model.background() if given is None else given) if text.strip()))
    if len(texts) > TEXTS:
        texts = random.Random(0).sample(texts, TEXTS)
    write_atomically(path, json.dumps(texts, ensure_ascii=False, indent=0) + "\n")


def _background(folder: Path) -> list[str]:
    path = folder / BACKGROUND
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
