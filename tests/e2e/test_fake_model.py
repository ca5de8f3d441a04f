"""Every family goes through the whole program, and one of a few lines, too: what is asked of a model is what model/interface.py says."""

import json
import shutil
from dataclasses import dataclass

import pytest
import torch

from omnivast import label
from omnivast.evaluation.report import run_report
from omnivast.utils.log import read_jsonl
from tests.e2e import fake_model  # noqa: F401  (enters the family "fake")
from tests.e2e.program import ROOT, TINY, call

DEBUG = "datasets/omnistamps/debug"
CLIPS = {"vision": f"{DEBUG}/clips", "vision_sample_num": 2, "audio_sample_num": 1, "batch_size": 8, "n_workers": 0}


@dataclass(frozen=True)
class Family:
    """flags: its config. group: what is searched, captioned and labelled by. labels: the column of its captions."""

    flags: tuple[str, ...]
    group: str
    labels: str
    reranks: bool = False


FAMILIES = {
    "fake": Family(("--config", TINY, "--model_type", "fake"), "tv", "vision_cap"),
    "vast": Family(("--config", TINY), "tva", "vast_cap", reranks=True),
    "valor": Family(("--config", "config/debug/valor_tiny.json"), "tva", "vast_cap"),
    "gram": Family(("--config", "config/debug/gram_tiny.json"), "tva", "vast_cap", reranks=True),
}


def arguments(family, output, *more):
    task = f"ret%{family.group}_cap%{family.group}"
    train = [{**CLIPS, "name": "pairs", "task": task, "txt": f"{DEBUG}/pretrain_train.json", "steps": 6}]
    val = [{**CLIPS, "name": "search", "task": f"ret%{family.group}", "txt": f"{DEBUG}/ret_test.json"},
           {**CLIPS, "name": "words", "task": f"cap%{family.group}", "txt": f"{DEBUG}/cap_test.json",
            "annfile": f"{DEBUG}/cap_test_references.json"}]
    return [*family.flags, "--num_threads", "1", "--save_best", "false", "--valid_freq", "0",
            "--save_every", "3", "--remove_before_ckpt", "false", "--ret_bidirection_evaluation", "true",
            "--data_cfg.train", json.dumps(train), "--data_cfg.val", json.dumps(val), "--output_dir", str(output), *more]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def trained(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert call(arguments(family, folder)) == 0
    return folder


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def weights(folder, step=6):
    return torch.load(folder / "ckpt" / f"model_step_{step}.pt", weights_only=True)


def test_it_learns(family, trained):
    losses = [row["loss"] for row in read_jsonl(trained / "log" / "metrics.jsonl")]
    assert len(losses) == 6 and losses[-1] < losses[0]
    moved = [not torch.equal(early, weights(trained)[name]) for name, early in weights(trained, 3).items()]
    assert all(moved) if family is FAMILIES["fake"] else sum(moved) > len(moved) / 2


def test_resumed_it_ends_the_same(family, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "ckpt" / "state_step_6.pt").unlink()
    assert call(arguments(family, tmp_path / "run", "--resume", "true")) == 0
    rows = [{row["step"]: row["loss"] for row in read_jsonl(folder / "log" / "metrics.jsonl")} for folder in (trained, tmp_path / "run")]
    assert rows[0] == rows[1] and len(rows[0]) == 6
    assert all(torch.equal(tensor, weights(tmp_path / "run")[name]) for name, tensor in weights(trained).items())


def test_it_is_tested_for_retrieval_and_captions(family, trained, tmp_path):
    """With the same results whatever the batch."""
    assert call(arguments(family, tmp_path / "test", "--mode", "testing", "--checkpoint", str(trained / "ckpt" / "model_step_6.pt"),
                          "--test_batch_size", "5")) == 0
    for name in ("search.ret", "words.cap"):
        found, before = (json.loads((folder / f"{name}.json").read_text())
                         for folder in (tmp_path / "test" / "results", trained / "results" / "step_6"))
        assert found["predictions"] == before["predictions"] and found["metrics"] == before["metrics"]
        if name == "search.ret":
            assert (found["protocol"]["rerank_depth"] > 0) is family.reranks
    ranks = [entry[family.group] for entry in json.loads((tmp_path / "test" / "results" / "search.ret.json").read_text())["predictions"]]
    known = {"itc_rank", "itc_v2t_rank", "top"}
    assert (set(ranks[0]) > known if family.reranks else set(ranks[0]) == known) and len({entry["itc_rank"] for entry in ranks}) > 3


def test_it_labels(family, trained, tmp_path):
    assert label.main([f"{DEBUG}/clips", "--model", str(trained), "--output", str(tmp_path / "labels"), "--device", "cpu",
                       "--precision", "float32"]) == 0
    rows, silent = (json.loads(file.read_text()) if file.is_file() else []  # a model of six steps may begin with the end of its caption
                    for file in (tmp_path / "labels" / name for name in ("labels.json", "without_words.json")))
    assert len(rows) + len(silent) == len(list((ROOT / DEBUG / "clips").iterdir())) and all(row[family.labels][0] for row in rows)


def test_it_is_reported(trained, tmp_path):
    assert run_report.main([str(trained), "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "search" in page and "words" in page


def test_what_it_cannot_do_is_said(run_program, tmp_path):
    fake = FAMILIES["fake"]
    outcome = run_program([*arguments(fake, tmp_path / "a"), "--model_type", "fale"])
    message = "model_cfg.model_type: unknown model 'fale'; valid are avllm, fake, gram, valor, vast. Did you mean"
    assert outcome.status == 2 and message in outcome.text
    outcome = run_program(arguments(fake, tmp_path / "b", "--scst_finetuning", "true"))
    assert outcome.status == 2 and "Fake cannot be trained from a reward" in outcome.text
