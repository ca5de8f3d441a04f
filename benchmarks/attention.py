"""Attention in training on a CPU in bfloat16: torch's fused kernel beside the plain products that model/attention.py takes there.

    python benchmarks/attention.py [--rows 1536] [--heads 4] [--tokens 26] [--width 32]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omnivast.model.attention import attend  # noqa: E402

log = logging.getLogger("omnivast")


def seconds(step: Callable[[], torch.Tensor], repeats: int) -> float:
    """Median time of a forward and backward pass."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        step().sum().backward()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Time both on the same tensors, and compare their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 1536), ("heads", 4), ("tokens", 26), ("width", 32), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    size = parser.parse_args()
    torch.manual_seed(0)
    shape = (size.rows, size.heads, size.tokens, size.width)
    query, key, value = (torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    mask = torch.ones(size.tokens, size.tokens, dtype=torch.bool).tril().expand(size.rows, 1, -1, -1)
    fused = seconds(lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask), size.repeats)
    plain = seconds(lambda: attend(query, key, value, mask), size.repeats)
    difference = (F.scaled_dot_product_attention(query, key, value, attn_mask=mask) - attend(query, key, value, mask)).abs().max().item()
    log.info("fused %.1f ms, ours %.1f ms, ratio %.2f, largest difference %.4f", 1e3 * fused, 1e3 * plain, fused / plain, difference)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
