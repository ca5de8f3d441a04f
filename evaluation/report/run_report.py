"""The report of training and testing runs: curves, evaluations, published numbers, breakdowns and cases. See ``evaluation.report``."""

from __future__ import annotations

import argparse
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omnivast.config.metrics import (
    ACCURACY,
    CIDER,
    MEAN_RANK,
    MEDIAN_RANK,
    METRICS,
    R1,
    R5,
    R10,
    R50,
    VQA_ACCURACY,
    MetricName,
    Ranks,
)
from omnivast.config.paths import as_path
from omnivast.evaluation import published as benchmarks
from omnivast.evaluation.report.cases import CASES, cases_of
from omnivast.evaluation.report.charts import Dots, Series, dot_chart, line_chart
from omnivast.evaluation.report.page import LOSS_WORDS, LOSSES, Cell, Report, loss_chart, loss_of
from omnivast.evaluation.report.run_files import Result, Run, RunError, annotation_rows, goodness, mapping, read_run
from omnivast.utils.goodput import in_words

logger = logging.getLogger("omnivast")
RANKINGS = {
    Ranks.ITM: "Text to clip, the first {depth} re-ranked by the matching score", Ranks.ITC: "Text to clip, contrastive score alone",
    Ranks.ITM_V2T: "Clip to text, the first {depth} re-ranked by the matching score",
    Ranks.ITC_V2T: "Clip to text, contrastive score alone",
    Ranks.DUAL_SOFTMAX: "Text to clip, contrastive score with dual softmax (an extra: it looks at all test texts at once)",
    Ranks.DUAL_SOFTMAX_V2T: "Clip to text, contrastive score with dual softmax (an extra)",
}
CURVES = {
    (Ranks.ITM, R1): "R@1, re-ranked", (Ranks.ITC, R1): "R@1, contrastive", (None, CIDER): "CIDEr", (None, ACCURACY): "accuracy",
}
"""Metrics shown over the steps."""
WAITS = ("data_wait", "exchange_wait")
RANK_COLUMNS = (R1, R5, R10, R50, MEDIAN_RANK, MEAN_RANK)
SIZES = ((0, 8, "up to 8 words"), (9, 16, "9 to 16 words"), (17, 10**9, "17 words or more"))


def build(runs: Sequence[Run], cases: int = CASES) -> Report:
    """The page of some runs; ``cases``: best, median and worst ones shown of each result."""
    report = Report("OmniVAST report", " · ".join(str(run.folder) for run in runs))
    _published(report, [result for run in runs for result in run.results])
    for run in runs:
        if run.rows:
            report.section(f"Training: {run.folder}", f"{len(run.rows)} steps logged. Running means, the single steps behind them.")
            report.text(_last(run.rows[-1])).charts(training_charts(run.rows), plain=_course(run.rows))
            _speed(report, run)
        _evaluations(report, run)
        for result in run.results:
            report.section(f"{result.name}: {_words(result.objective)}", str(result.path))
            _ablation(report, result)
            rows = annotation_rows(result)
            _breakdowns(report, result, rows)
            report.gallery(cases_of(result, run, rows, cases))
            facts: list[list[Any]] = [[name.replace("_", " "), Cell(short(value), "left")] for name, value in result.protocol.items()]
            report.table(["protocol", ""], facts, small=True)
    return report


def _speed(report: Report, run: Run) -> None:
    """What the time went into, and how fast the processes were when they last told."""
    if run.wall is not None:
        words = in_words(run.wall)
        report.text(f"{words[0].upper()}{words[1:]}.")
    last = run.performance[-1] if run.performance else {}
    processes = {own.get("rank"): own for own in last.get("processes", []) if isinstance(own, Mapping)}
    shown = [processes[rank] for rank in last.get("slowest", []) if rank in processes]
    if len(processes) < 2:
        return
    rows = [[f"{own['rank']} on {own.get('host')}", own.get("clips_per_second"), *(100 * own.get(key, 0.0) for key in WAITS),
             own.get("memory_gb")] for own in shown]
    report.table(["process", "clips/s", "waits for data, %", "waits in exchanges, %", "memory, GB"], rows,
                 caption=f"The slowest of {len(processes)} processes, at step {last['step']}")
    for words in last.get("stragglers", []):
        report.text(f"Straggler: {words}.")


def _last(row: Mapping[str, Any]) -> str:
    """The last logged step in a line, which stands for the curves where there are none."""
    losses = {"loss": row.get("loss"), **mapping(row.get("losses"))}
    words = [f"{LOSS_WORDS[name]} loss {losses[name]:.3f}" for name in LOSSES if isinstance(losses.get(name), (int, float))]
    if isinstance(row.get("clips_per_second"), (int, float)):
        words.append(f"{row['clips_per_second']:.1f} clips per second")
    return f"At step {row.get('step')}, on {row.get('corpus', 'its corpus')}: {', '.join(words)}."


def training_charts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Losses per corpus, learning rates, gradient norm, throughput, and the time waiting for data, over the steps."""
    by_corpus: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_corpus[str(row.get("corpus", ""))].append(row)
    charts = [loss_chart(f"Losses on {corpus}" if corpus else "Losses", lines) for corpus, lines in by_corpus.items()]
    rates = sorted({role for row in rows for role in mapping(row.get("lr"))})
    lines = {role: _points(rows, lambda row, role=role: mapping(row.get("lr")).get(role)) for role in rates}
    if len({tuple(points) for points in lines.values()}) == 1:
        lines = {"all": next(iter(lines.values()))}
    charts.append(line_chart("Learning rate × 10⁶", [Series(role, [(x, 1e6 * y) for x, y in points]) for role, points in lines.items()]))
    smooth = max(1, len(rows) // 20)
    for key, title, name in (("grad_norm", "Gradient norm before clipping", "norm"), ("clips_per_second", "Clips per second", "clips/s"),
                             ("data_wait", "Waiting for data, % of the time", "wait")):
        points = _points(rows, lambda row, key=key: row.get(key))
        if key == "data_wait":  # logged as a share
            points = [(step, 100.0 * share) for step, share in points]
        charts.append(line_chart(title, [Series(name, points)], smooth=smooth))
    return [chart for chart in charts if chart]


def _points(rows: Sequence[Mapping[str, Any]], value: Callable[..., Any]) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(value(row))) for row in rows if isinstance(value(row), (int, float))]


def _evaluations(report: Report, run: Run) -> None:
    """Headline metrics over the steps of a training; with one evaluation there is no curve to draw."""
    if len(run.evaluations) < 2:
        return
    curves: dict[str, list[Series]] = defaultdict(list)
    for name in run.evaluations[-1]:
        parsed = MetricName.parse(name)
        words = CURVES.get((parsed.ranks, parsed.metric)) if parsed else None
        if parsed and words:
            points = _points(run.evaluations, lambda row, name=name: row.get(name))
            curves[f"{parsed.dataset}: {words}"].append(Series(str(parsed.group), points))
    last = " · ".join(f"{title}: {', '.join(f'{line.name} {line.points[-1][1]:.1f}' for line in lines if line.points)}"
                      for title, lines in curves.items())
    report.section(f"Evaluation over the steps: {run.folder}")
    report.charts([line_chart(title, lines[:7]) for title, lines in curves.items()], plain=f"At the last step: {last}.")


def _course(rows: Sequence[Mapping[str, Any]], parts: int = 5) -> str:
    """The curves as a Markdown table: means over equal parts of the training."""
    size = -(-len(rows) // parts)
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    values: dict[str, Callable[..., Any]] = {f"{LOSS_WORDS[name]} loss": lambda row, name=name: loss_of(row, name) for name in LOSSES}
    values |= {"gradient norm": lambda row: row.get("grad_norm"), "clips per second": lambda row: row.get("clips_per_second"),
               "waiting for data, %": lambda row: 100.0 * row["data_wait"] if isinstance(row.get("data_wait"), (int, float)) else None}
    lines = [["steps", *values], ["---"] * (1 + len(values))]
    for chunk in chunks:
        points = [[y for _, y in _points(chunk, value)] for value in values.values()]
        means = [f"{sum(numbers) / len(numbers):.4g}" if numbers else "–" for numbers in points]
        lines.append([f"{chunk[0]['step']} to {chunk[-1]['step']}", *means])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _published(report: Report, results: Sequence[Result]) -> None:
    rows: list[list[Any]] = []
    notes: list[str] = []
    names = Counter((result.name, result.objective) for result in results)
    for result in results:
        group, numbers = benchmarks.headline(result.metrics, result.named)
        row = benchmarks.reference(result.named)
        published = row.results if row else {}
        where = f" ({result.path.parent})" if names[result.name, result.objective] > 1 else ""
        rows.append([f"{result.name} {group}{where}", "", "", row.model.name if row and published else "", ""])
        for key, value in numbers.items():
            other = published.get(key)
            rows.append([benchmarks.HEADLINES[key], Cell(f"{value:.1f}", "best"), result.interval(group, key), other,
                         None if other is None else f"{value - other:+.1f}"])
        absent = {benchmarks.HEADLINES.get(key, key): why for key, why in mapping(result.protocol.get("not_computed")).items()}
        if not numbers:
            rows += [[name, "not computed", None, None, None] for name in absent]
        if absent:
            notes.append(f"{result.name}, not computed: {'; '.join(f'{name}, {why}' for name, why in absent.items())}.")
        if published:
            differences = "; ".join(benchmarks.protocol_differences(result.named))
            notes.append(f"{result.name}: the protocol differs from the published one: {differences}." if differences else
                         f"{result.name}: the protocol is the published one, as far as the paper tells.")
    units = "Percent (CIDEr × 100), with 95 % bootstrap intervals over clips. "
    sources = {row.model.name: row.model.source for result in results for row in benchmarks.others(result.named)}
    if rows and not sources:
        report.section("Numbers", units + "None of these datasets is a benchmark of the paper by its name.")
        report.table(["metric", "here", "95 % interval"], [row[:3] for row in rows])
    elif rows:
        origin = "Published: the first fine-tuned model of the family, else VAST; all others below."
        report.section("Numbers beside the published ones", units + origin)
        report.table(["metric", "here", "95 % interval", "published", "difference"], rows)
    for note in notes:
        report.text(note)
    if sources:
        _everything_published(report, results)
        report.text("Sources. " + " · ".join(f"{name}: {source}." for name, source in sources.items()))


def _everything_published(report: Report, results: Sequence[Result]) -> None:
    """For each result a table of what was published on its benchmark, each number with its protocol, and our own among them."""
    for name, result in {result.name: result for result in results}.items():
        published = benchmarks.others(result.named)
        keys = [key for key in benchmarks.HEADLINES if any(key in row.results for row in published)]
        if not published:
            continue
        group, own = benchmarks.headline(result.metrics, result.named)
        rows: list[list[Any]] = [["here", *(own.get(key) for key in keys), Cell(group, "left")]]
        if dual := mapping(result.metrics[group].get(Ranks.DUAL_SOFTMAX.value)):
            rows.append(["here", *(dual.get(key) for key in keys), Cell(f"{group}; dual softmax over the test set", "left")])
        rows += [[row.model.name, *(row.results.get(key) for key in keys), Cell(benchmarks.in_words(row), "left")] for row in published]
        report.table(["model", *(benchmarks.HEADLINES[key] for key in keys), "protocol"], rows, caption=f"Published on {name}")
        said = {row.model.name: row.model.protocol.get(result.objective, "") for row in published}
        report.text(" · ".join(f"{', '.join(model for model in said if said[model] == protocol)}: {protocol}."
                               for protocol in dict.fromkeys(said.values()) if protocol))


def _words(objective: str) -> str:
    return {"ret": "retrieval", "cap": "captions", "qa": "questions", "chat": "conversations"}.get(objective, objective)


def _ablation(report: Report, result: Result) -> None:
    """A table of the same checkpoint by group of modalities; retrieval has one for each way of ranking."""
    if result.objective == "ret":
        kinds = [kind for kind in RANKINGS if any(kind in by_ranks for by_ranks in result.metrics.values())]
        for kind in kinds:
            columns = ["group", "R@1", "95 % interval", *(metric.label for metric in RANK_COLUMNS[1:])]
            rows: list[list[Any]] = []
            for group, by_ranks in result.metrics.items():
                r1, *others = (mapping(by_ranks.get(kind)).get(metric.key) for metric in RANK_COLUMNS)
                rows.append([group, r1, result.interval(group, R1.key, kind), *others])
            report.table(columns, rows, caption=RANKINGS[kind].format(depth=result.protocol.get("rerank_depth", "k")))
        marks = {kind: words for kind, words in ((Ranks.ITM, "re-ranked"), (Ranks.ITC, "contrastive")) if kind in kinds}
        values = {group: [mapping(by_ranks.get(kind)).get(R1.key) for kind in marks] for group, by_ranks in result.metrics.items()}
        name, names, unit = R1.label, list(marks.values()), "%"
    else:
        numbers = {group: benchmarks.headline({group: metrics}, {"groups": (group,)})[1] for group, metrics in result.metrics.items()}
        keys = list(dict.fromkeys(key for by_key in numbers.values() for key in by_key))
        if not keys:
            return
        columns = ["group", *(benchmarks.HEADLINES[key] for key in keys)]
        lines = [[group, *map(by_key.get, keys)] for group, by_key in numbers.items()]
        report.table(columns, lines, caption="By group of modalities, one checkpoint")
        first = next((metric for metric in (CIDER, VQA_ACCURACY, ACCURACY) if metric.key in keys), METRICS[keys[0]])
        values = {group: [by_key[first.key]] for group, by_key in numbers.items() if first.key in by_key}
        name = first.label
        names = [name]
        unit = "%" if first.percent else ""
    if len(values) > 1 and names:
        high = max(100.0, *(value for marked in values.values() for value in marked if value is not None))
        dots = [Dots(group, marked) for group, marked in values.items()]
        report.charts([dot_chart(f"{name} by group", names, dots, high=high, unit=unit)])


def breakdown(result: Result, categories: Mapping[str, str]) -> dict[str, list[tuple[str, int, float]]]:
    """By question and answer type, category and length of the text: (value, cases, mean): share of rank 1 or right answers in %, or the
    mean score of captions × 100. ``categories``: of the clips that have one."""
    if not result.answered:
        return {}
    good = goodness(result)
    values = [100.0 * (score == -1.0 if result.objective == "ret" else score) for score in good]
    cells: dict[str, dict[str, list[float]]] = {kind: defaultdict(list) for kind in ("type", "answer_type", "category", "length")}
    for entry, value in zip(result.entries, values):
        texts = entry.get("references") or [entry.get("text", entry.get("question", ""))]
        words = round(sum(len(text.split()) for text in texts) / max(1, len(texts)))
        kinds = {"type": entry.get("type"), "answer_type": entry.get("answer_type"), "category": categories.get(entry["clip_id"]),
                 "length": next(name for low, high, name in SIZES if low <= words <= high)}
        for kind, name in kinds.items():
            if name:
                cells[kind][str(name)].append(value)
    order = [name for _, _, name in SIZES]
    sizes = {kind: sorted(by_name, key=lambda name: order.index(name) if name in order else 0) if kind == "length" else sorted(by_name)
             for kind, by_name in cells.items()}
    return {kind: [(name, len(by_name[name]), sum(by_name[name]) / len(by_name[name])) for name in sizes[kind]]
            for kind, by_name in cells.items() if by_name}


def _breakdowns(report: Report, result: Result, rows: Mapping[str, Mapping[str, Any]]) -> None:
    categories = {clip_id: str(row["category"]) for clip_id, row in rows.items() if row.get("category") is not None}
    measure = {"ret": "text at rank 1, %", "qa": "right, %", "chat": "right, %"}.get(result.objective, "mean score × 100")
    for kind, cells in breakdown(result, categories).items():
        if len(cells) > 1:
            title = {"type": "question type", "answer_type": "answer type", "category": "category", "length": "length of the text"}[kind]
            report.table([title, "cases", measure], [[name, f"{count:,}", value] for name, count, value in cells])


def short(value: Any) -> str:
    """A value of a protocol in a line."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value[:8])) + (f" … ({len(value)})" if len(value) > 8 else "") or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {short(inner)}" for key, inner in value.items())
    return "–" if value is None else str(value)


def main(arguments: Sequence[str]) -> int:
    """Write the page and its Markdown. Returns 2, with one message, for a folder that is no run, or where it cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m omnivast report", description="A report of output folders of run.py: one HTML page "
                                     "without outside files, and the same as Markdown beside it.")
    parser.add_argument("runs", nargs="+", type=as_path, metavar="RUN", help="output folder of a training or a test")
    parser.add_argument("--output", type=as_path, help="the page; default: report.html in the first run")
    parser.add_argument("--cases", type=int, default=CASES, help="best, median and worst cases shown of each result")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        report = build([read_run(folder) for folder in options.runs], options.cases)
        path = options.output or options.runs[0] / "report.html"
        report.write(path)
    except (RunError, OSError) as error:
        logger.error("report: %s", error)
        return 2
    logger.info("wrote %s and %s", path, path.with_suffix(".md"))
    return 0
