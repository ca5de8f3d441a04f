"""Bytes that each process sends per training step, ours beside the released VAST, at the released sizes: ``python benchmarks/traffic.py``.

Nothing is run: the counts follow the formulas of ``utils.distributed.Traffic``, which ``tests/benchmarks/test_traffic.py`` compares with
what several processes send. The gradients that data parallel training averages, 2 n (W - 1) / W bytes of n, are the same for both and
not counted. Of the release only what it gathers for hard negatives is counted, in the forward pass: for every group, the condition
features of the whole global batch.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

HALF, FULL, INTEGER, NUMBER = 2, 4, 8, 4


@dataclass(frozen=True)
class Step:
    """A retrieval step: ``groups`` such as "vas", condition ``tokens`` of a clip by modality, all of the text's ``width``."""

    clips: int
    groups: tuple[str, ...]
    tokens: dict[str, int]
    width: int
    contrastive: int
    caption_tokens: int
    kinds: int
    """Kinds of captions that the groups use."""
    with_grad: bool = True

    def features(self) -> int:
        """Numbers of a clip's condition features, over all groups."""
        return sum(self.tokens[modality] for group in self.groups for modality in group) * self.width


VAST_27M = Step(clips=1024, groups=("vas", "va", "vs", "v", "a"), tokens={"v": 257, "a": 2 * 256, "s": 70}, width=768, contrastive=512,
                caption_tokens=70, kinds=3)
"""Pretraining on VAST-27M: one frame of 224 px in 14 px patches, two slices of sound, subtitles padded to their full length."""


def ours(step: Step, processes: int, size: int, elsewhere: float | None = None) -> dict[str, float]:
    """Bytes that a process sends, by the kinds of ``utils.distributed.Traffic``, on average over processes and draws.

    ``size``: bytes of a number on the way. ``elsewhere``: share of the negatives that another process holds; None: as expected
    when every other clip is as likely.
    """
    own = step.clips // processes
    if elsewhere is None:
        elsewhere = (step.clips - own) / (step.clips - 1)
    fetched = own * elsewhere
    vectors = own * step.contrastive * (step.kinds + len(step.groups)) * FULL * (processes - 1)
    return {
        "gather": vectors * (2 if step.with_grad else 1),
        "fetch": 2 * fetched * step.features() * size + fetched * len(step.groups) * step.caption_tokens * 2 * INTEGER,
        "index": (2 * len(step.groups) * own + step.kinds + 2 * len(step.tokens)) * NUMBER * (processes - 1),
    }


def released(step: Step, processes: int, size: int) -> float:
    """Bytes of condition features that a process of the release sends: its own clips' to every other, for every group."""
    return step.clips // processes * (processes - 1) * step.features() * size


def table(step: Step, processes: tuple[int, ...]) -> str:
    """Markdown, in MB (10^6 bytes)."""
    lines = ["| processes | clips of each | contrastive features | hard negatives, bf16 | float32 | indices | released, fp16 | float32 |",
             "|---|---|---|---|---|---|---|---|"]
    for world in processes:
        half, full = ours(step, world, HALF), ours(step, world, FULL)
        numbers = [half["gather"], half["fetch"], full["fetch"], half["index"], released(step, world, HALF), released(step, world, FULL)]
        lines.append(f"| {world:,} | {step.clips // world:,} | " + " | ".join(f"{number / 1e6:,.1f}" for number in numbers) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[8, 64, 1024])
    processes = tuple(parser.parse_args().processes)
    print(f"MB that a process sends per step of {VAST_27M.clips:,} clips, groups {', '.join(VAST_27M.groups)}:\n")  # noqa: T201
    print(table(VAST_27M, processes))  # noqa: T201


if __name__ == "__main__":
    main()
