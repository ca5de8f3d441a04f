"""Are two results different? ``python -m omnivast compare A.json B.json [--groups tva tvas] [--json OUT]``

A and B are result files of the same clips, as testing or ``evaluation.score --json`` writes them. Every metric is computed on the same
1,000 draws of clips for both (paired bootstrap): the difference B − A, the interval that holds 95 % of its draws, and a two-sided p.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnivast.config.files import read_json
from omnivast.config.paths import as_path
from omnivast.config.tasks import Objective
from omnivast.evaluation.captions.evaluator import caption_measures
from omnivast.evaluation.inputs import is_result
from omnivast.evaluation.metrics import bootstrap
from omnivast.evaluation.questions.evaluator import answer_measures
from omnivast.evaluation.retrieval.measures import rank_measures
from omnivast.utils.files import write_atomically

MEASURES: dict[str, Callable[..., tuple[dict[str, bootstrap.Measure], int]]] = {
    Objective.RETRIEVAL.value: rank_measures,
    Objective.CAPTION.value: caption_measures,
    Objective.QA.value: answer_measures,
    Objective.CHAT.value: answer_measures,
}
SAME = ("objective", "split_sha256", "references_sha256")
"""Facts of the protocol without which numbers do not compare."""
UNIMPORTANT = frozenset(["seconds", "hardware", "processes", "versions", "split_file", "references", "intervals", "groups", "not_computed",
                         "condition_features", "precision_reason"])


class CompareError(ValueError):
    """Two results that cannot be compared, or a file that is none; the message says why."""


def compare(first: Path, second: Path, groups: tuple[str, str] | None = None) -> dict[str, Any]:
    """``{"comparisons": [{"groups", "metric", "a", "b", "difference", "interval", "p"}, …], "protocol_differences": {name: [a, b]}}``

    Args:
        groups: one of each file; None: every group that both have.

    Raises:
        CompareError: the clips, texts, questions, references or the split differ, or there is no common group.
    """
    a, b = _read(first), _read(second)
    for name in SAME:
        one, other = a["protocol"].get(name), b["protocol"].get(name)
        if one is not None and other is not None and one != other:
            raise CompareError(f"the protocols differ in '{name}': {one!r} in {first}, {other!r} in {second}; such numbers do not compare")
    for path, part in ((first, a), (second, b)):
        if part["protocol"]["objective"] == Objective.QA.value and not all("answer" in entry for entry in part["predictions"]):
            raise CompareError(f"{path} has predictions alone, since its questions came without answers; there is nothing to compare")
    pairs = _pairs(a, b, groups, (first, second))
    objective = a["protocol"]["objective"]
    comparisons = []
    for group_a, group_b in pairs:
        entries = [entry for entry in a["predictions"] if group_a in entry]
        other = _aligned(entries, [entry for entry in b["predictions"] if group_b in entry], (first, second))
        try:
            (measures_a, clips), (measures_b, _) = MEASURES[objective](entries, group_a), MEASURES[objective](other, group_b)
        except (KeyError, TypeError, ValueError) as error:
            raise CompareError(f"{first} or {second} lacks {error}: perhaps made by an older version; test or score again") from None
        comparisons += _tests(group_a, group_b, measures_a, measures_b, clips)
    names = [name for name in {**a["protocol"], **b["protocol"]} if name not in UNIMPORTANT]
    differences = {name: [part["protocol"].get(name) for part in (a, b)] for name in names}
    return {"comparisons": comparisons, "protocol_differences": {name: pair for name, pair in differences.items() if pair[0] != pair[1]}}


def _tests(
    group_a: str, group_b: str, a: Mapping[str, bootstrap.Measure], b: Mapping[str, bootstrap.Measure], clips: int
) -> list[dict[str, Any]]:
    common = [name for name in a if name in b]
    both = {**{("a", name): a[name] for name in common}, **{("b", name): b[name] for name in common}}
    drawn = bootstrap.replicates({" ".join(key): measure for key, measure in both.items()}, clips)
    rows = []
    for name in common:
        values = [bootstrap.value(measures[name], clips) for measures in (a, b)]
        differences = drawn[f"b {name}"] - drawn[f"a {name}"]
        rows.append({"groups": [group_a, group_b], "metric": name, "a": values[0], "b": values[1], "difference": values[1] - values[0],
                     "interval": bootstrap.interval(differences), "p": bootstrap.p_value(differences)})
    return rows


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = read_json(path, CompareError)
    if not is_result(result) or result["protocol"].get("objective") not in MEASURES:
        raise CompareError(f"{path} is no result file: expected 'protocol' with 'objective' and 'groups', and 'predictions' "
                           "(output of testing, results/*.json, or of python -m omnivast score --json)")
    return result


def _pairs(
    a: Mapping[str, Any], b: Mapping[str, Any], groups: tuple[str, str] | None, paths: tuple[Path, Path]
) -> list[tuple[str, str]]:
    have = [list(part["protocol"].get("groups") or ()) for part in (a, b)]
    if groups is not None:
        for group, present, path in zip(groups, have, paths):
            if group not in present:
                raise CompareError(f"{path} has no group '{group}'; it has {', '.join(present)}")
        return [groups]
    common = [group for group in have[0] if group in have[1]]
    if not common:
        raise CompareError(f"no common group: {paths[0]} has {', '.join(have[0])}; {paths[1]} has {', '.join(have[1])}. Choose one of each "
                           "with --groups")
    return [(group, group) for group in common]


def _aligned(entries: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], paths: tuple[Path, Path]) -> list[dict[str, Any]]:
    """The ``other`` file's entries in the order of ``entries``. Raises CompareError when they are not about the same things."""
    keys, other_keys = _keys(entries), _keys(other)
    for missing, path, holder in ((set(keys) - set(other_keys), paths[1], paths[0]), (set(other_keys) - set(keys), paths[0], paths[1])):
        if missing:
            clip_id, *what = min(missing, key=str)[:-1]
            text = next((str(part) for part in what if part), "")
            raise CompareError(f"{path} lacks {len(missing)} entries that {holder} has, for example clip '{clip_id}'"
                               + (f" with '{text}'" if text else "") + "; only results of the same clips and texts compare")
    by_key = dict(zip(other_keys, other))
    aligned = [by_key[key] for key in keys]
    for entry, twin in zip(entries, aligned):
        for name in ("references", "answer", "answers"):
            if entry.get(name) != twin.get(name):
                raise CompareError(f"clip '{entry['clip_id']}' has different '{name}' in {paths[0]} and {paths[1]}")
    return aligned


def _keys(entries: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """The key of each entry: its clip, its text or question, and how many entries before it have the same ones."""
    seen: Counter[tuple[Any, ...]] = Counter()
    keys = []
    for entry in entries:
        key = (entry["clip_id"], entry.get("text"), entry.get("question"), str(entry.get("question_id") or ""))
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys


def as_text(comparison: Mapping[str, Any]) -> str:
    """The comparison as a table for a terminal."""
    rows = [["group", "metric", "A", "B", "B - A", "95 % interval", "p"]]
    for row in comparison["comparisons"]:
        low, high = row["interval"]
        a, b = row["groups"]
        rows.append([a if a == b else f"{a} | {b}", row["metric"], f"{row['a']:.2f}", f"{row['b']:.2f}", f"{row['difference']:+.2f}",
                     f"[{low:+.2f}, {high:+.2f}]", f"{row['p']:.3f}"])
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) if n < 2 else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths))) for row in rows]
    lines += [f"protocol differs in {name}: {a!r} | {b!r}" for name, (a, b) in comparison["protocol_differences"].items()]
    return "\n".join(line.rstrip() for line in lines) + f"\npaired; {bootstrap.WORDS}; p is not corrected for the number of metrics\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison. Returns 2, with one line on stderr, when the results do not compare."""
    parser = argparse.ArgumentParser(prog="python -m omnivast compare", description="Paired test between two result files.")
    parser.add_argument("first", type=as_path, metavar="A.json")
    parser.add_argument("second", type=as_path, metavar="B.json")
    parser.add_argument("--groups", nargs=2, metavar=("OF_A", "OF_B"), help="compare these groups (default: all that both have)")
    parser.add_argument("--json", type=as_path, metavar="OUT", help="also write the comparison to this file")
    options = parser.parse_args(arguments)
    try:
        comparison = compare(options.first, options.second, tuple(options.groups) if options.groups else None)
        sys.stdout.write(as_text(comparison))
        if options.json:
            write_atomically(options.json, json.dumps(comparison, indent=1, ensure_ascii=False) + "\n")
    except (CompareError, OSError) as error:
        sys.stderr.write(f"compare: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
