"""What compare_losses.py found, as tables: means over seeds, each with its interval."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnivast.config.tasks import Group
from omnivast.scripts.omnistamps.loss_variants import Variant

BySeed = Mapping[int, float]
ByGroup = Mapping[str, BySeed]
KEYS = ("v", "a", "s", "va", "vs", "vas")
MEASURES = {"r1": "R@1", "facts": "Facts: the first clip has all that the group's tracks can tell"}
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % points of Student's distribution, for 2 to 10 seeds."""


def read_tables(folder: Path, data: Path, tables: Mapping[str, Mapping[str, Variant]], seeds: Sequence[int], base: str) -> dict[str, Any]:
    """``tables.<table>.<variant>``: ``words``, ``r1`` and ``facts`` by group and seed, ``dimensions`` likewise.

    Runs that were not made are left out: a table may be read while it grows.
    """
    from omnivast.scripts.omnistamps.quickstart_summary import retrieval_numbers  # here, because --help comes before anything is installed

    clips = {clip["clip_id"]: clip for clip in json.loads((data / "clips.json").read_text(encoding="utf-8"))}
    ceilings = json.loads((data / "ceilings.json").read_text(encoding="utf-8"))
    protocols: dict[str, Any] = {}

    def numbers(name: str) -> dict[str, Any] | None:
        for path in (folder / f"test_{name}" / "results").glob("*.json"):
            result = json.loads(path.read_text(encoding="utf-8"))
            protocols[name] = result["protocol"]
            return retrieval_numbers(result, clips)
        return None

    def rows(name: str, ending: str = "") -> dict[str, Any]:
        found = {seed: own for seed in seeds if (own := numbers(f"{name}_{seed}{ending}")) is not None}
        groups = next(iter(found.values()), ())
        return {measure: {key: {seed: own[key]["itc"][measure] for seed, own in found.items()} for key in groups} for measure in MEASURES}

    content = {table: {name: {"words": variant.words, "trained": [Group.parse(group).key for group in variant.groups], **rows(name),
                              "dimensions": {str(length): rows(name, f"_{length}") for length in variant.dimensions}}
                       for name, variant in variants.items()} for table, variants in tables.items()}
    return {"base": base, "seeds": list(seeds), "ceiling": {key: ceilings[key]["r1"] for key in KEYS}, "tables": content,
            "protocol": protocols}


def interval(values: Collection[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's distribution over seeds; NaN for one seed."""
    n, mean = len(values), _mean(values)
    if not 2 <= n <= len(STUDENT) + 1:
        return mean, math.nan
    return mean, STUDENT[n - 2] * math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1) / n)


def as_markdown(found: Mapping[str, Any]) -> str:
    """Two tables, of R@1 and of facts, for each that was asked for, and rows' differences from the base where it is among them."""
    lines = ["Mean over seeds ± half of its 95 % interval (Student's), in %."]
    for table, rows in found["tables"].items():
        for measure, words in MEASURES.items():
            made = [row for row in rows.values() if row[measure]]
            keys = [key for key in KEYS if any(key in row[measure] for row in made)]
            head = [f"| | {' | '.join(keys)} | mean | seeds |", "|---|" + "---:|" * (len(keys) + 2)]
            lines += ["", f"**{table}: {words}**", "", *head, *(_line(row["words"], row[measure], keys) for row in made)]
            if measure == "r1":
                ceiling = [found["ceiling"][key] for key in keys]
                lines.append(f"| ceiling | {' | '.join(f'{value:.1f}' for value in [*ceiling, _mean(ceiling)])} | |")
            base = rows.get(found["base"], {measure: {}})
            if base[measure]:
                lines += ["", f"Differences from {base['words']}, seed by seed; bold where the interval does not hold 0:", "", *head]
                lines += [_line(row["words"], _differences(row[measure], base[measure]), keys, "+") for row in made if row is not base]
    return "\n".join([*lines, *_dimensions(found), ""])


def _dimensions(found: Mapping[str, Any]) -> list[str]:
    """A table of what vectors cut to fewer numbers still find, mean over the groups."""
    rows = [row for table in found["tables"].values() for row in table.values() if any(own["r1"] for own in row["dimensions"].values())]
    if not rows:
        return []
    lengths = list(rows[0]["dimensions"])
    lines = ["", "**Vectors cut to fewer numbers: mean of facts over the groups**", "",
             f"| | whole | {' | '.join(lengths)} |", "|---|" + "---:|" * (len(lengths) + 1)]
    for row in rows:
        of_lengths = [row["facts"], *(own["facts"] for own in row["dimensions"].values())]
        lines.append(f"| {row['words']} | {' | '.join(_cell(_over_groups(own)) for own in of_lengths)} |")
    return lines


def _over_groups(by_group: ByGroup) -> BySeed:
    """The mean over groups of each seed."""
    return {seed: _mean([values[seed] for values in by_group.values()]) for seed in next(iter(by_group.values()))}


def _differences(own: ByGroup, base: ByGroup) -> ByGroup:
    """Of the seeds that both have."""
    return {key: {seed: x - base[key][seed] for seed, x in values.items() if seed in base[key]} for key, values in own.items()}


def _line(words: str, by_group: ByGroup, keys: Sequence[str], sign: str = "") -> str:
    seeds = next(iter(by_group.values()))
    cells = [_cell(by_group[key], sign) if key in by_group else "–" for key in keys]
    return f"| {words} | {' | '.join([*cells, _cell(_over_groups(by_group), sign)])} | {len(seeds)} |"


def _cell(by_seed: BySeed, sign: str = "") -> str:
    """``12.3 ± 0.4``; a difference whose interval does not hold 0 is bold."""
    mean, half = interval(by_seed.values())
    text = f"{round(mean, 1) + 0.0:{sign}.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}")
    return f"**{text}**" if sign and abs(mean) > half else text


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values)
