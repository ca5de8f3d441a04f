"""The report of training and testing runs: curves, evaluations, published numbers, breakdowns and cases. See ``evaluation.report``."""

from __future__ import annotations

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.audio import SAMPLE_RATE
from data.media import MediaError, MediaFolder, read_clip, read_image, read_sound
from evaluation import benchmarks
from evaluation.charts import Dots, Series, dot_chart, line_chart
from evaluation.metrics.accuracy import exact_matches
from evaluation.metrics.rouge import rouge_l
from evaluation.metrics.tokenizer import tokenize
from evaluation.report import LOSS_WORDS, LOSSES, Card, Cell, Line, Picture, Report, jpeg_uri, loss_chart, sound_of
from utils.log import read_jsonl

logger = logging.getLogger("omnivast")
SHOWN_FRAMES, CASES = 4, 3
SIZES = ((0, 8, "up to 8 words"), (9, 16, "9 to 16 words"), (17, 10**9, "17 words or more"))


class RunError(ValueError):
    """A folder or result file cannot be reported; the message names it and what was expected."""


@dataclass
class Result:
    """One result file: its protocol, metrics by group and predictions."""

    path: Path
    protocol: dict[str, Any]
    metrics: dict[str, Any]
    predictions: list[dict[str, Any]]

    @property
    def group(self) -> str:
        """The group of the headline."""
        return benchmarks.headline(self.metrics, self.protocol.get("groups", ()), self.name)[0]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The predictions that the headline's group has: texts of another caption kind are not searched with by every group."""
        return [entry for entry in self.predictions if self.group in entry]

    @property
    def name(self) -> str:
        """The dataset's name."""
        return str(self.protocol.get("dataset", self.path.stem))

    @property
    def objective(self) -> str:
        """``ret``, ``cap`` or ``qa``."""
        return str(self.protocol.get("objective", self.path.stem.rsplit(".", 1)[-1]))


@dataclass
class Run:
    """What one output folder holds."""

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    results: list[Result]


def read_run(folder: Path) -> Run:
    """Logs and results of an output folder; of a training's evaluations the last step's results. Raises RunError."""
    config: dict[str, Any] = {}
    for name in ("hps.json", "hps_testing.json"):
        if (folder / "log" / name).is_file():
            config = _json(folder / "log" / name)
    files = sorted(folder.glob("results/*.json"))
    if not files:
        steps = sorted((folder / "results").glob("step_*"), key=lambda path: int(path.name.removeprefix("step_") or 0))
        files = sorted(steps[-1].glob("*.json")) if steps else []
    run = Run(folder, config, read_jsonl(folder / "log" / "metrics.jsonl"), read_jsonl(folder / "log" / "eval.jsonl"),
              [_result(path) for path in files])
    if not (run.rows or run.evaluations or run.results):
        raise RunError(f"{folder}: expected an output folder of run.py with log/metrics.jsonl or results/*.json; it has neither")
    return run


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as JSON: {error}") from error


def _result(path: Path) -> Result:
    content = _json(path)
    lacking = [key for key in ("protocol", "metrics", "predictions") if not isinstance(content, dict) or not content.get(key)]
    if lacking:
        raise RunError(f"{path}: no {', '.join(lacking)}; expected a result file of evaluation")
    return Result(path, content["protocol"], content["metrics"], content["predictions"])


def build(runs: Sequence[Run], cases: int = CASES) -> Report:
    """The page of some runs; ``cases``: best, median and worst ones shown of each result."""
    report = Report("OmniVAST report", " · ".join(str(run.folder) for run in runs))
    _published(report, [result for run in runs for result in run.results])
    for run in runs:
        if run.rows:
            report.section(f"Training: {run.folder}", f"{len(run.rows)} steps logged. Running means, the single steps behind them.")
            report.text(_last(run.rows[-1])).charts(training_charts(run.rows))
        _evaluations(report, run)
        for result in run.results:
            report.section(f"{result.name}: {_words(result.objective)}", str(result.path))
            _ablation(report, result)
            rows = _annotations(result)
            _breakdowns(report, result, rows)
            report.gallery(_cases(result, run, rows, cases))
            report.table(["protocol", ""], [[name, Cell(short(value), "left")] for name, value in result.protocol.items()])
    return report


def _last(row: Mapping[str, Any]) -> str:
    """The last logged step in a line, which stands for the curves where there are none."""
    losses = {"loss": row.get("loss"), **_mapping(row.get("losses"))}
    words = [f"{LOSS_WORDS[name]} loss {losses[name]:.3f}" for name in LOSSES if isinstance(losses.get(name), (int, float))]
    if isinstance(row.get("clips_per_second"), (int, float)):
        words.append(f"{row['clips_per_second']:.1f} clips per second")
    return f"At step {row.get('step')}, on {row.get('corpus', 'its corpus')}: {', '.join(words)}."


def training_charts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Losses per corpus, learning rates, gradient norm, throughput, and the time waiting for data, over the steps."""
    by_corpus: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_corpus[str(row.get("corpus", ""))].append(row)
    charts = [loss_chart(f"Losses on {corpus}" if corpus else "Losses", own) for corpus, own in by_corpus.items()]
    rates = sorted({role for row in rows for role in _mapping(row.get("lr"))})
    lines = {role: _points(rows, lambda row, role=role: _mapping(row.get("lr")).get(role)) for role in rates}
    if len({tuple(points) for points in lines.values()}) == 1:
        lines = {"all": next(iter(lines.values()))}
    charts.append(line_chart("Learning rate × 10⁶", [Series(role, [(x, 1e6 * y) for x, y in points]) for role, points in lines.items()]))
    smooth = max(1, len(rows) // 20)
    for key, title, name in (("grad_norm", "Gradient norm before clipping", "norm"), ("clips_per_second", "Clips per second", "clips/s"),
                             ("data_wait", "Waiting for data, seconds a step", "wait")):
        charts.append(line_chart(title, [Series(name, _points(rows, lambda row, key=key: row.get(key)))], smooth=smooth))
    return [chart for chart in charts if chart]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _points(rows: Sequence[Mapping[str, Any]], value: Callable[..., Any]) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(value(row))) for row in rows if isinstance(value(row), (int, float))]


def _evaluations(report: Report, run: Run) -> None:
    """Headline metrics over the steps of a training; with one evaluation there is no curve to draw."""
    if len(run.evaluations) < 2:
        return
    shown = (".r1", ".cider", ".accuracy")
    kept = [name for name in run.evaluations[-1] if name.endswith(shown) and "v2t" not in name and "dual" not in name]
    by_dataset: dict[str, list[str]] = defaultdict(list)
    for name in kept:
        by_dataset[".".join(name.split(".")[:2])].append(name)
    report.section(f"Evaluation over the steps: {run.folder}")
    report.charts([line_chart(title, [Series(name.removeprefix(f"{title}."), _points(run.evaluations, lambda row, name=name: row.get(name)))
                                      for name in names[:7]]) for title, names in by_dataset.items()])


def _published(report: Report, results: Sequence[Result]) -> None:
    rows: list[list[Any]] = []
    for result in results:
        group, own = benchmarks.headline(result.metrics, result.protocol.get("groups", ()), result.name)
        theirs = benchmarks.published(result.name)
        differences = "; ".join(benchmarks.protocol_differences(result.name, result.protocol)) if theirs else "no published number"
        for number, (key, value) in enumerate(own.items()):
            other = theirs.get(key)
            rows.append([f"{result.name} {group}" if not number else "", benchmarks.HEADLINES[key], Cell(f"{value:.1f}", "best"), other,
                         None if other is None else f"{value - other:+.1f}", Cell(differences or "none" if not number else "", "left")])
    if rows and not any(benchmarks.published(result.name) for result in results):
        report.section("Numbers", "Percent (CIDEr × 100). None of these datasets is a benchmark of the paper by its name.")
        report.table(["dataset", "metric", "here"], [row[:3] for row in rows])
    elif rows:
        report.section("Numbers beside the published ones", f"Percent (CIDEr × 100). Published: fine-tuned VAST, {benchmarks.source()}.")
        report.table(["benchmark", "metric", "here", "published", "difference", "protocol differences"], rows)


def _words(objective: str) -> str:
    return {"ret": "retrieval", "cap": "captions", "qa": "questions"}.get(objective, objective)


def _ablation(report: Report, result: Result) -> None:
    """The same checkpoint by group of modalities."""
    groups = {group: benchmarks.headline({group: own}, (group,))[1] for group, own in result.metrics.items()}
    keys = list(dict.fromkeys(key for own in groups.values() for key in own))
    report.table(["group", *(benchmarks.HEADLINES[key] for key in keys)], [[group, *map(own.get, keys)] for group, own in groups.items()],
                 caption="By group of modalities, one checkpoint")
    first = next((key for key in ("r1", "cider", "accuracy") if key in keys), None)
    if len(groups) > 1 and first:
        values = [own.get(first) for own in groups.values()]
        high = max(100.0, *(value for value in values if value is not None))
        report.charts([dot_chart(f"{benchmarks.HEADLINES[first]} by group", [benchmarks.HEADLINES[first]],
                                 [Dots(group, [value]) for group, value in zip(groups, values)], high=high)])


def goodness(result: Result) -> list[float]:
    """One number per entry, the higher the better: minus the rank of the true clip, CIDEr (ROUGE-L in files that hold no scores
    of single captions), or 1 and 0 for a right and a wrong answer."""
    group, entries = result.group, result.entries
    if result.objective == "ret":
        return [-float(_rank(entry, group)) for entry in entries]
    if result.objective == "qa":
        return list(map(float, exact_matches([entry[group] for entry in entries], [entry["answer"] for entry in entries])))
    scores = [_mapping(_mapping(entry.get("scores")).get(group)).get("cider") for entry in entries]
    if all(isinstance(score, (int, float)) for score in scores):
        return [float(score) for score in scores if score is not None]
    return rouge_l([tokenize(entry[group]) for entry in entries], [list(map(tokenize, entry["references"])) for entry in entries])[1]


def _rank(entry: Mapping[str, Any], group: str) -> int:
    found = entry[group]
    return int(found["itm_rank"] if "itm_rank" in found else found["itc_rank"])


def breakdown(result: Result, categories: Mapping[str, str]) -> dict[str, list[tuple[str, int, float]]]:
    """By question type, category and length of the text: (value, cases, mean): share of rank 1 or right answers in %, or the mean
    score of captions × 100. ``categories``: of the clips that have one."""
    good = goodness(result)
    values = [100.0 * (score == -1.0 if result.objective == "ret" else score) for score in good]
    cells: dict[str, dict[str, list[float]]] = {"type": defaultdict(list), "category": defaultdict(list), "length": defaultdict(list)}
    for entry, value in zip(result.entries, values):
        texts = entry.get("references") or [entry.get("text", entry.get("question", ""))]
        words = round(sum(len(text.split()) for text in texts) / max(1, len(texts)))
        kinds = {"type": entry.get("type"), "category": categories.get(entry["clip_id"]),
                 "length": next(name for low, high, name in SIZES if low <= words <= high)}
        for kind, name in kinds.items():
            if name:
                cells[kind][str(name)].append(value)
    order = [name for _, _, name in SIZES]
    sizes = {kind: sorted(own, key=lambda name: order.index(name) if name in order else 0) if kind == "length" else sorted(own)
             for kind, own in cells.items()}
    return {kind: [(name, len(own[name]), sum(own[name]) / len(own[name])) for name in sizes[kind]] for kind, own in cells.items() if own}


def _breakdowns(report: Report, result: Result, rows: Mapping[str, Mapping[str, Any]]) -> None:
    categories = {clip_id: str(row["category"]) for clip_id, row in rows.items() if row.get("category") is not None}
    measure = {"ret": "text at rank 1, %", "qa": "right, %"}.get(result.objective, "mean score × 100")
    for kind, own in breakdown(result, categories).items():
        if len(own) > 1:
            title = {"type": "question type", "category": "category", "length": "length of the text"}[kind]
            report.table([title, "cases", measure], [[name, f"{count:,}", value] for name, count, value in own])


def _annotations(result: Result) -> dict[str, dict[str, Any]]:
    """Clip id → its annotation row; empty where the file is not there any more."""
    try:
        rows = json.loads(Path(result.protocol.get("split_file", "")).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        logger.warning("%s: its split file %s cannot be read, subtitles and categories are left out", result.path,
                       result.protocol.get("split_file"))
        return {}
    ids = ("clip_id", "video_id", "image_id", "image", "id")
    named = [(next((row[key] for key in ids if key in row), None), row) for row in rows if isinstance(row, dict)]
    return {str(clip_id): row for clip_id, row in named if clip_id is not None}


def _cases(result: Result, run: Run, rows: Mapping[str, Mapping[str, Any]], cases: int) -> list[Card]:
    """Best, median and worst cases, of different clips, as cards."""
    entries = result.entries
    order = sorted(zip(goodness(result), range(len(entries))), key=lambda pair: (-pair[0], pair[1]))
    middle = max(0, (len(order) - cases) // 2)
    datasets = _mapping(run.config.get("data_cfg")).get("val", ())
    settings: Mapping[str, Any] = next((own for own in datasets if own.get("name") == result.name), {})
    cards: list[Card] = []
    used: set[str] = set()
    for title, picked in (("Best", order), ("Median", order[middle:]), ("Worst", order[::-1])):
        number = 0
        for _, place in picked:
            entry = entries[place]
            if number < cases and entry["clip_id"] not in used:
                used.add(entry["clip_id"])
                number += 1
                cards.append(_case(f"{title} {number}", result, entry, settings, rows.get(entry["clip_id"], {})))
    return cards


def _case(title: str, result: Result, entry: Mapping[str, Any], settings: Mapping[str, Any], row: Mapping[str, Any]) -> Card:
    clip_id, group = entry["clip_id"], result.group
    frames, waveform, lines = [], None, []
    try:
        frames = [Picture(uri, f"frame of {clip_id}") for uri in _frames(settings, clip_id)]
        waveform = _waveform(settings, clip_id)
    except MediaError as error:
        lines.append(Line("media", f"not shown: {error}"))
    if row.get("subtitle"):
        lines.append(Line("subtitle", str(row["subtitle"])))
    if result.objective == "ret":
        rank = _rank(entry, group)
        lines += [Line("text", entry["text"]), Line("rank", str(rank), rank == 1), Line("found", ", ".join(entry[group]["top"]))]
    elif result.objective == "cap":
        lines += [Line("model", entry[group] or "(nothing)"), *(Line("reference", text) for text in entry["references"][:3])]
    else:
        right = exact_matches([entry[group]], [entry["answer"]])[0]
        lines += [Line("question", entry["question"]), Line("model", entry[group] or "(nothing)", bool(right)),
                  Line("answer", entry["answer"])]
    return Card(title, clip_id, frames, lines, sound=sound_of(waveform, SAMPLE_RATE))


def _frames(settings: Mapping[str, Any], clip_id: str, number: int = SHOWN_FRAMES, side: int = 160) -> list[str]:
    """Frames at equal distances as embedded pictures; none for datasets without pictures or of folders of frames."""
    folder, kind = settings.get("vision"), settings.get("vision_format")
    if not folder or kind not in ("video_rawvideo", "image_rawimage"):
        return []
    path = MediaFolder(folder).find(clip_id)
    if kind == "image_rawimage":
        return [jpeg_uri(read_image(path), 320)]
    clip = read_clip(path, lambda total: [(2 * n + 1) * total // (2 * number) for n in range(number)])
    return [] if clip.frames is None else [jpeg_uri(frame, side) for frame in clip.frames]


def _waveform(settings: Mapping[str, Any], clip_id: str) -> Any:
    folder = settings.get("audio") or (settings.get("vision") if settings.get("vision_format") == "video_rawvideo" else None)
    return read_sound(MediaFolder(folder).find(clip_id)) if folder else None


def short(value: Any) -> str:
    """A value of a protocol in a line."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value[:8])) + (f" … ({len(value)})" if len(value) > 8 else "") or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {short(own)}" for key, own in value.items())
    return "–" if value is None else str(value)


def main(arguments: Sequence[str]) -> int:
    """Write the page and its Markdown. Returns 2, with one message, for a folder that is no run."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.report", description="A report of output folders of run.py: one HTML page "
                                     "without outside files, and the same as Markdown beside it.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a training or a test")
    parser.add_argument("--output", type=Path, help="the page; default: report.html in the first run")
    parser.add_argument("--cases", type=int, default=CASES, help="best, median and worst cases shown of each result")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        report = build([read_run(folder) for folder in options.runs], options.cases)
    except RunError as error:
        logger.error("report: %s", error)
        return 2
    path = options.output or options.runs[0] / "report.html"
    report.write(path)
    logger.info("wrote %s and %s", path, path.with_suffix(".md"))
    return 0
