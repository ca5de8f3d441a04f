"""Ranks of the released VALOR's scores are those that it counted itself, plain and after a dual softmax, in both directions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from omnivast.evaluation.retrieval.search import search
from tests.model.valor.recorded import ABLATIONS, RELEASED, folder_of


@pytest.mark.parametrize("group", ["tv", "ta", "tva"])
@pytest.mark.parametrize("name", RELEASED + ABLATIONS)
def test_metrics_of_retrieval(name, group):
    folder = folder_of(name)
    if folder is None:
        pytest.skip(f"the values recorded from the released VALOR in '{name}' are not here")
    golden, scores = json.loads((folder / "golden.json").read_text()), load_file(folder / "outputs.safetensors")[f"retrieval_sim_{group}"]
    text_of, clips = np.array([row for row, own in enumerate(golden["retrieval_texts"]) for _ in own]), np.arange(scores.shape[1])
    table = {"forward": (scores, text_of, clips), "backward": (scores.T, clips, text_of)}
    for direction, (own, queries, candidates) in table.items():
        def looked_up(one, other, own=own):
            return own[one["row"].long()[:, None], other["row"].long()]

        rows = [{"row": torch.arange(count)} for count in own.shape]
        found = search(*rows, looked_up, queries, candidates, 1, dual_softmax=True, temperature=golden["temperature"])
        for ranks, key in ((found.ranks, group), (found.dual_ranks, f"{group}.dual_softmax")):
            wanted = golden["retrieval_metrics"][key]
            recalls = "/".join(f"{100 * (ranks <= depth).mean():.1f}" for depth in (1, 5, 10))
            assert recalls == wanted[f"{direction}_recall"]
            assert ranks.mean() == pytest.approx(wanted[f"{direction}_meanR"], abs=1e-6)
            assert torch.tensor(ranks).median() == wanted[f"{direction}_medianR"]  # the lower of two, as torch takes it
