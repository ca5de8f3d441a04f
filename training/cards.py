"""What GPUs can do, as a table, and from it how long a step takes that was simulated (simulate.py): a model with few constants, each named
here, each to be replaced by a measured one from a JSON file, {"A100-80GB": {"large": 0.8, "memory_share": 0.7}}.

A product takes the longer of its arithmetic, at the rate of its shape, and its bytes; any other operation takes its bytes. The rate by
shape: a card computes tiles of ``TILE`` x ``TILE``, as many at a time as it has units, and short inner dimensions pay for starting:

    rate = peak · large · (share of tiles that are full) · (share of units at work) · k / (k + START)

Operations wait for the host where it gives them out more slowly. Exchanges of an engine, weights and gradients, go on beside computing,
but for the first of a pass (weights) and the last (gradients); all others are waited for.
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from omnivast.config.files import read_json
from omnivast.config.words import did_you_mean
from omnivast.training.simulate import Simulated
from omnivast.utils.collectives import BY_ENGINE, Collective
from omnivast.utils.work import Phase, Product

TILE = 128
START = 64


@dataclasses.dataclass(frozen=True)
class Card:
    """A GPU, and how it reaches others. Peaks and bandwidths are those of data sheets; the shares are guesses until they are measured."""

    memory: float
    """Bytes."""
    half: float
    """Peak operations per second of dense products in bfloat16 or float16, accumulated in float32."""
    single: float
    """The same in float32 (TF32 where the card has it and torch takes it: not by default)."""
    bandwidth: float
    """Bytes per second of its memory."""
    units: int
    """Streaming multiprocessors."""
    inside: float
    """Bytes per second that it sends to GPUs of the same machine while it gets as many."""
    outside: float
    """The same to other machines: its share of their network cards."""
    per_machine: int = 8
    large: float = 0.8
    """Share of the peak that large products reach."""
    memory_share: float = 0.8
    """Share of the bandwidth that plain operations reach."""
    network_share: float = 0.8
    """Share of ``inside`` or ``outside`` that collectives reach."""
    host: float = 7e-6
    """Seconds in which the host gives out one operation."""
    latency: float = 15e-6
    """Seconds that a collective takes beside its bytes, for every doubling of the processes."""


CARDS = {
    "V100-32GB": Card(32e9, 125e12, 15.7e12, 0.9e12, 80, 150e9, 6.25e9),
    "A100-40GB": Card(40e9, 312e12, 19.5e12, 1.555e12, 108, 300e9, 25e9),
    "A100-80GB": Card(80e9, 312e12, 19.5e12, 2.039e12, 108, 300e9, 25e9),
    "H100-80GB": Card(80e9, 989e12, 67e12, 3.35e12, 132, 450e9, 50e9),
    "H200-141GB": Card(141e9, 989e12, 67e12, 4.8e12, 132, 450e9, 50e9),
}


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step, by what they are spent on."""

    compute: float
    """Forward and backward pass on the device; or, where that is longer, on the host."""
    host: float
    """What of these the host alone is to blame for."""
    exchange: float
    """Exchanges that are waited for."""
    hidden: float
    """Exchanges beside computing."""
    update: float
    mfu: float
    """Operations that the model needs, over those that the card's peak would do in the step."""

    @property
    def step(self) -> float:
        return self.compute + self.exchange + self.update


def find_cluster(text: str, constants: str | None = None) -> tuple[int, str, Card]:
    """"64xA100-80GB" → how many processes, the card's name, its constants, those of the JSON file ``constants`` in the place of ours.

    Raises ValueError that names the setting and what is valid.
    """
    cards = dict(CARDS)
    if constants:
        read = read_json(Path(constants), ValueError, wanted_by=" (named by run_cfg.simulate_constants)")
        if not isinstance(read, dict):
            raise ValueError(f"{constants}: expected an object of cards, such as {{\"A100-80GB\": {{\"large\": 0.8}}}}")
        cards |= {name: _changed(cards.get(name), name, values, constants) for name, values in read.items()}
    found = re.fullmatch(r"(\d+)x(.+)", text)
    if not found or int(found[1]) < 1:
        raise ValueError(f"run_cfg.simulate '{text}': expected a number of GPUs and a card, such as 64xA100-80GB")
    if found[2] not in cards:
        raise ValueError(f"run_cfg.simulate '{text}': no card '{found[2]}' is known; known are {', '.join(cards)}."
                         f"{did_you_mean(found[2], list(cards))} run_cfg.simulate_constants may add others")
    return int(found[1]), found[2], cards[found[2]]


def _changed(card: Card | None, name: str, values: Any, file: str) -> Card:
    known = [field.name for field in dataclasses.fields(Card)]
    if not isinstance(values, dict):
        raise ValueError(f"{file}: '{name}' should be an object of constants, such as {{\"large\": 0.8}}, got {values!r}")
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{file}: '{name}' has no constant '{key}'; valid are {', '.join(known)}.{did_you_mean(key, known)}")
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ValueError(f"{file}: '{name}.{key}' should be a number above 0, got {value!r}")
    if card is not None:
        return dataclasses.replace(card, **values)
    if missing := [field.name for field in dataclasses.fields(Card) if field.default is dataclasses.MISSING and field.name not in values]:
        raise ValueError(f"{file}: the new card '{name}' lacks {', '.join(missing)}")
    return Card(**values)


def product_seconds(card: Card, product: Product) -> float:
    """Of one product."""
    tiles_m, tiles_n = math.ceil(product.m / TILE), math.ceil(product.n / TILE)
    full = product.m * product.n / (tiles_m * tiles_n * TILE * TILE)
    tiles = product.batch * tiles_m * tiles_n
    busy = tiles / (math.ceil(tiles / card.units) * card.units)
    peak = card.half if product.width == 2 else card.single
    rate = peak * card.large * full * busy * product.k / (product.k + START)
    return max(product.flops / rate, product.moved / (card.bandwidth * card.memory_share))


def phase_seconds(card: Card, phase: Phase) -> tuple[float, float]:
    """(on the device, on the host) of a forward or backward pass."""
    device = sum(product_seconds(card, product) * count for product, count in phase.products.items())
    device += phase.moved / (card.bandwidth * card.memory_share)
    return device, card.host * (phase.others + sum(phase.products.values()))


def collective_seconds(card: Card, processes: int, one: Collective) -> float:
    """Of one exchange."""
    link = card.inside if processes <= card.per_machine else card.outside
    return max(one.sent, one.received) / (link * card.network_share) + card.latency * math.log2(max(2, processes))


def step_seconds(card: Card, step: Simulated) -> Times:
    """Of a simulated step."""
    compute = host = exchange = hidden = 0.0
    for backward, phase in ((False, step.work.forward), (True, step.work.backward)):
        device, given_out = phase_seconds(card, phase)
        own = [one for one in step.collectives.found if one.backward is backward]
        beside = [collective_seconds(card, step.processes, one) for one in own if one.operation in BY_ENGINE]
        alone = sum(collective_seconds(card, step.processes, one) for one in own if one.operation not in BY_ENGINE)
        edge = (beside[-1] if backward else beside[0]) if beside else 0.0
        seconds = max(device, given_out)
        compute, host = compute + seconds, host + max(0.0, given_out - device)
        waited = edge + max(0.0, sum(beside) - edge - seconds)
        exchange, hidden = exchange + alone + waited, hidden + sum(beside) - waited
    # AdamW reads a weight, its gradient and two moments, and writes all but the gradient.
    update = 7 * 4 * step.trained / (card.bandwidth * card.memory_share)
    forward, backward_flops = step.work.forward.flops, step.work.backward.flops
    needed = forward + min(backward_flops, 2 * forward)  # what checkpointing computes again is not needed
    seconds = compute + exchange + update
    return Times(compute, host, exchange, hidden, update, needed / (seconds * card.half))
