"""GRAM through the whole program: trained, resumed, tested for retrieval by volume with re-ranking, by config/debug/gram_tiny.json."""

import json
import shutil

import pytest
import torch

from omnivast.utils.log import read_jsonl
from tests.e2e.program import ROOT, call

STEPS = 6


def arguments(output, *more):
    return ["--config", "config/debug/gram_tiny.json", "--n_workers", "0", "--num_threads", "1", "--save_every", "3",
            "--remove_before_ckpt", "false", "--save_best", "false", "--valid_freq", "0", "--output_dir", str(output), *more]


@pytest.fixture(scope="module", autouse=True)
def at_the_root():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gram") / "run"
    assert call(arguments(folder)) == 0
    return folder


def weights(folder):
    return torch.load(folder / "ckpt" / f"model_step_{STEPS}.pt", weights_only=True)


def result(folder, *inner):
    return json.loads(folder.joinpath("results", *inner, "omnistamps_ret.ret.json").read_text())


def test_it_learns(trained):
    rows = list(read_jsonl(trained / "log" / "metrics.jsonl"))
    assert len(rows) == STEPS and rows[-1]["loss"] < rows[0]["loss"]


def test_resumed_it_ends_the_same(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "ckpt" / f"state_step_{STEPS}.pt").unlink()
    assert call(arguments(tmp_path / "run", "--resume", "true")) == 0
    assert all(torch.equal(tensor, weights(tmp_path / "run")[name]) for name, tensor in weights(trained).items())
    assert result(tmp_path / "run", f"step_{STEPS}")["predictions"] == result(trained, f"step_{STEPS}")["predictions"]


def test_its_test_finds_the_same_whatever_the_batch(trained, tmp_path):
    assert call(arguments(tmp_path / "test", "--mode", "testing", "--checkpoint", str(trained / "ckpt" / f"model_step_{STEPS}.pt"),
                          "--data_cfg.val.0.batch_size", "5")) == 0
    found, before = result(tmp_path / "test"), result(trained, f"step_{STEPS}")
    assert found["metrics"] == before["metrics"] and found["protocol"]["rerank_depth"] > 0
    ranks = [entry["tvas"] for entry in found["predictions"]]
    assert {"itc_rank", "itc_v2t_rank", "itm_rank", "top"} <= set(ranks[0]) and len({entry["itc_rank"] for entry in ranks}) > 3
