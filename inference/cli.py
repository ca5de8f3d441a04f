"""The verbs ``caption``, ``answer``, ``embed``, ``index``, ``search`` and ``serve``: the methods of a loaded model and of an index, from a
terminal."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from omnivast.config.paths import as_path
from omnivast.inference.index.ann import EXACT_UP_TO
from omnivast.inference.moments import STRIDE, WINDOW
from omnivast.inference.terminal import (
    MODEL,
    add_clips,
    add_common,
    add_settings,
    as_plain,
    by_clip,
    in_words,
    load_model,
    parser_of,
    print_evidence,
    print_faults,
    print_json,
    print_missing,
    print_table,
    read_weights,
    run_verb,
    save_results,
    say,
    tell,
)

WAIT_MINUTES = 30 * 24 * 60.0
"""How long a process waits for others that still index their share; the launcher ends all when one dies."""
OWN_VAL = Path("the val list of the run")
"""``--fit`` without a file."""


def caption(arguments: Sequence[str] | None = None) -> int:
    """``omnivast caption clip.mp4 --model RUN``"""
    parser = parser_of("caption", "Caption videos, pictures and sounds.")
    add_clips(parser)
    parser.add_argument("--n", type=int, default=1, help="captions of each clip (default 1)")
    parser.add_argument("--beams", type=int, help="width of the beam search; 1: greedy (default: as the model is tested)")
    parser.add_argument("--sample", action="store_true", help="draw captions instead of searching for the likeliest")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")

    def run(options: argparse.Namespace) -> int:
        model = load_model(options)
        return by_clip(options, lambda clip: model.caption(clip, group=options.group, n=options.n, beams=options.beams,
                                                           sample=options.sample, seed=options.seed),
                       lambda found: "\n".join(map(in_words, found.candidates)))[1]

    return run_verb(parser, run, arguments)


def answer(arguments: Sequence[str] | None = None) -> int:
    """``omnivast answer clip.mp4 "what is heard?" --model RUN``"""
    parser = parser_of("answer", "Answer a question about a video, picture or sound.")
    parser.add_argument("clip", type=as_path, help="the file")
    parser.add_argument("question", nargs="+", help="one or more questions, each in quotes")
    add_common(parser)
    parser.add_argument("--beams", type=int, help="width of the beam search; 1: greedy (default: as the model is tested)")
    parser.add_argument("--evidence", action="store_true", help="name the frames and slices of sound without which the answer is another")

    def run(options: argparse.Namespace) -> int:
        found = load_model(options).answer(options.clip, options.question, group=options.group, beams=options.beams,
                                           evidence=options.evidence)
        if options.json:
            print_json({"results": [as_plain(one) for one in found]})
        else:
            print_missing(found[:1])
            for one in found:
                tell(in_words(one.text) if len(found) == 1 else f"{one.question}\n  {in_words(one.text)}")
                if one.evidence is not None:
                    print_evidence(one.evidence)
        return 0

    return run_verb(parser, run, arguments)


def embed(arguments: Sequence[str] | None = None) -> int:
    """``omnivast embed clip.mp4 … --model RUN --output vectors.npz``"""
    parser = parser_of("embed", "Vectors of clips, by group of tracks, into a .npz file or as JSON.")
    add_clips(parser)
    parser.add_argument("--output", type=as_path, help=".npz file: an array (clips, width) for each group, and 'paths'; rows of clips "
                                                       "without a track of the group are NaN")

    def run(options: argparse.Namespace) -> int:
        if not options.json and options.output is None:
            raise ValueError("name a file with --output vectors.npz, or print the vectors with --json")
        found, status = by_clip(options, load_model(options).embed,
                                lambda one: ", ".join(f"{key} ({len(vector)})" for key, vector in one.vectors.items()))
        if options.output is not None and found:
            save_results(options.output, found)
        return status

    return run_verb(parser, run, arguments)


def index(arguments: Sequence[str] | None = None) -> int:
    """``omnivast index videos/ --model RUN``"""
    parser = parser_of("index", "Make the index of a folder of videos, pictures and sounds, or bring it up to date: only new and changed "
                                "files are read. Killed at any moment, the same command goes on. Under torchrun the files are shared "
                                "out over the processes.")
    parser.add_argument("source", type=as_path, help="the folder, or a list of clips (.txt, .csv, .json), which may give subtitles")
    add_common(parser, group=False)
    parser.add_argument("--index", type=as_path, metavar="FOLDER", help="where the index lies (default: .omnivast inside the folder)")
    parser.add_argument("--media", type=as_path, metavar="FOLDER", help="where the files of a list lie")
    parser.add_argument("--window", type=float, default=WINDOW, help=f"seconds of a moment of long files (default {WINDOW:g})")
    parser.add_argument("--stride", type=float, default=STRIDE, help=f"seconds from one moment to the next (default {STRIDE:g})")
    parser.add_argument("--background", type=as_path, metavar="FILE", help="texts about other things, one a line, by which it is told what "
                                                                            "a score means (default: captions of the model's training)")
    parser.add_argument("--fresh", action="store_true", help="throw away the index that is there")
    parser.add_argument("--fit", type=as_path, nargs="?", const=OWN_VAL, metavar="VAL.json",
                        help="learn what a score means (search --at-most-false), and how much the matching head counts (--rerank), "
                             "from texts whose clips are known: a list of clips with captions, whose files lie in --fit-media "
                             "(default: the val list of the model's run)")
    parser.add_argument("--fit-media", type=as_path, metavar="FOLDER", help="where the files of --fit lie (default: beside it)")
    parser.add_argument("--ann", action="store_true", default=None,
                        help=f"make the approximate index as well (extra ann; without being asked from {EXACT_UP_TO:,} moments on)")

    def run(options: argparse.Namespace) -> int:
        from omnivast.inference.index.api import Index, has_index, loaded, place_of
        from omnivast.inference.index.known import read_texts, texts_to_fit
        from omnivast.utils import distributed

        if options.fit is not None and "RANK" in os.environ:
            raise ValueError("--fit is of one process: leave the launcher out; the index that is there is kept")
        distributed.setup(options.device, timeout_minutes=WAIT_MINUTES)
        place = options.index or options.source
        known = has_index(place) and not options.fresh
        model = load_model(options) if options.model or os.environ.get(MODEL) or not known else loaded(None, place_of(place))
        val = None if options.fit is OWN_VAL else options.fit
        if options.fit is not None:
            texts_to_fit(model.parts, val)
        texts = options.background.read_text(encoding="utf-8").splitlines() if options.background else None
        made = Index(options.source, model, folder=options.index, media=options.media, window=options.window, stride=options.stride,
                     background=texts, fresh=options.fresh, ann=options.ann)
        report = made.report
        fit = None
        if options.fit is not None:
            fit = made.fit(val, media=options.fit_media)
        if not distributed.is_main():
            return 1 if report.faults else 0
        if options.json:
            print_json({"index": str(made.folder), **as_plain(report), **({"fit": as_plain(fit)} if fit else {}),
                        **({"approximate": as_plain(made.ann.facts)} if made.ann else {})})
        else:
            tell(f"{made.folder}: {report.moments} moments of {report.files} files ({report.new} new, {report.changed} changed, "
                 f"{report.removed} removed)")
            if made.ann:
                tell(f"approximate index: {made.ann.facts.words}, made in {made.ann.facts.seconds:.0f} s")
            if options.fit is not None:
                tell(f"how sure a result is: also told by {len(read_texts(made.folder))} texts among clips without their own")
            if fit:
                tell(f"re-ranking: the matching head counts {100 * fit.weight:.0f} %; R@1 {100 * fit.r1_without:.1f} % without it, "
                     f"{100 * fit.r1:.1f} % with it ({fit.texts} texts of {fit.fitted_on})")
            print_faults(report.faults)
        return 1 if report.faults else 0

    return run_verb(parser, run, arguments)


def search(arguments: Sequence[str] | None = None) -> int:
    """``omnivast search videos/ "a dog barks"``"""
    parser = parser_of("search", "Search an index for moments.")
    parser.add_argument("index", type=as_path, help="the index, or the folder of files that it lies in")
    parser.add_argument("text", nargs="*", help="what is looked for, in quotes; several texts count alike")
    parser.add_argument("--like", type=as_path, action="append", metavar="FILE", help="a video, picture or sound that results are to be "
                                                                                      "like")
    parser.add_argument("--without", action="append", default=[], metavar="TEXT", help="what results are not to be like")
    parser.add_argument("--words", default="", help="moments in which some of these words are said come further up")
    parser.add_argument("--top", type=int, default=10, help="results (default 10)")
    parser.add_argument("--weights", type=read_weights, metavar="seen=1,heard=0.5",
                        help="how much each track counts: seen, heard, said; those not named do not (default: all the same)")
    parser.add_argument("--at-most-false", type=float, metavar="SHARE", help="such as 0.01: find nothing rather than what a text about "
                                                                             "something else would find as well")
    parser.add_argument("--rerank", type=int, nargs="?", const=50, default=0, metavar="N",
                        help="let the matching head order the best N anew (default 50), as far as omnivast index --fit found it to help")
    parser.add_argument("--explain", action="store_true", help="name the second of each result that fits best; results are read again")
    parser.add_argument("--all-moments", action="store_true", help="also moments of a file that overlap a better one")
    parser.add_argument("--export", type=as_path, metavar="FILE", help="search nothing; write the index as a table, .parquet, or vectors"
                                                                       " of one group as an index of FAISS, .faiss")
    parser.add_argument("--group", help="with --export: the group of tracks, such as va (default: all in .parquet, the largest in .faiss)")
    add_settings(parser)

    def run(options: argparse.Namespace) -> int:
        from omnivast.inference.index.api import Index, place_of
        from omnivast.inference.index.export import export_index
        from omnivast.inference.index.store import Store

        if options.export is not None:
            if options.text or options.like or options.words:
                raise ValueError("--export writes the whole index; leave out what is searched for")
            store = Store.read(place_of(options.index))
            path = export_index(store, options.export, group=options.group)
            print_json({"file": str(path), "moments": len(store)}) if options.json else tell(f"{path}: {len(store)} moments")
            return 0
        if options.group is not None:
            raise ValueError("--group goes with --export; a search takes --weights seen=1,heard=0.5")
        opened = Index.open(options.index, load_model(options) if options.model else None)
        found = opened.search(options.text, like=options.like, without=options.without, words=options.words, top=options.top,
                              weights=options.weights, at_most_false=options.at_most_false, merge=not options.all_moments,
                              rerank=options.rerank, explain=options.explain)
        if options.json:
            print_json({"results": [as_plain(one) for one in found], **({"approximate": as_plain(opened.ann.facts)} if opened.ann else {})})
        elif not found:
            tell("nothing matches")
        else:
            print_table(found)
        if opened.ann and not options.json:
            say(f"approximate: {opened.ann.facts.words}")
        return 0

    return run_verb(parser, run, arguments)


def serve(arguments: Sequence[str] | None = None) -> int:
    """``omnivast serve videos/ --model RUN``"""
    parser = parser_of("serve", "Serve a folder of videos, pictures and sounds: a page to search it with, and the verbs over HTTP.")
    parser.add_argument("place", type=as_path, help="the folder, whose index is made or brought up to date meanwhile; or an index, which "
                                                    "is served as it is")
    add_settings(parser, json=False)
    parser.add_argument("--index", type=as_path, metavar="FOLDER", help="where the index of the folder lies (default: .omnivast inside it)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to answer at (default 127.0.0.1: this machine only); others need "
                                                            "a token in the environment variable OMNIVAST_TOKEN")
    parser.add_argument("--port", type=int, default=8000, help="default 8000")
    parser.add_argument("--uploads", action="store_true", help="let files be added to the folder")
    parser.add_argument("--upload-mb", type=int, metavar="MB", help="the largest request with files (default 2147)")

    def run(options: argparse.Namespace) -> int:
        from omnivast.inference.service.run import TOKEN
        from omnivast.inference.service.run import serve as begin

        begin(options.place, model=options.model or os.environ.get(MODEL), device=options.device, precision=options.precision,
              index=options.index, host=options.host, port=options.port, token=os.environ.get(TOKEN), uploads=options.uploads,
              upload_mb=options.upload_mb, say=say)
        return 0

    return run_verb(parser, run, arguments)


def export(arguments: Sequence[str] | None = None) -> int:
    """``omnivast export text.onnx --model RUN``"""
    parser = parser_of("export", "Write a model for others: its text tower as ONNX or as a program of torch.export, checked to compute the "
                                 "same vectors, its language model, or all of it as a folder to share.")
    parser.add_argument("path", type=as_path, help="the file, .onnx or .pt2, or the folder")
    parser.add_argument("--format", choices=("onnx", "torch", "folder", "adapter", "llm"),
                        help="default: as the path ends; without an ending, folder. Of a model with a language model: adapter, a folder "
                             "for peft; llm, a folder for transformers, the adapter merged")
    parser.add_argument("--licence", help="with a folder: of the model, for its card, such as mit")
    parser.add_argument("--llm-by-path", action="store_true", help="with a folder: name the place of a frozen or adapted language model "
                                                                   "instead of copying it")
    add_settings(parser)

    def run(options: argparse.Namespace) -> int:
        whole = (options.format or ("" if options.path.suffix else "folder")) == "folder"
        if options.licence is not None and not whole:
            raise ValueError("--licence goes with a folder, which has a card")
        if options.llm_by_path and not whole:
            raise ValueError("--llm-by-path goes with a folder")
        model = load_model(options)
        if options.format in ("adapter", "llm"):
            path = model.export_language_model(options.path, whole=options.format == "llm")
        else:
            path = model.save_pretrained(options.path, licence=options.licence, copy_llm=not options.llm_by_path) if whole else \
                model.export_text(options.path, options.format)
        print_json({"path": str(path)}) if options.json else tell(str(path))
        return 0

    return run_verb(parser, run, arguments)
