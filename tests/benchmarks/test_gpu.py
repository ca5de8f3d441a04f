"""The GPU benchmark on the CPU at a tiny size: every row and check is there, one that fails does not take the others with it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_checks, gpu_parts, recorded, released
from benchmarks.released import SIZES, make_batch, make_model
from omnivast.utils.random import StepRandom

ROOT = Path(__file__).parents[2]
TINY = ["--device", "cpu", "--size", "tiny", "--precision", "bf16", "--steps", "1", "--clips", "1", "--limit_s", "3600"]


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
    """Compiling takes minutes."""
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)


def run(tmp_path, *flags):
    out = tmp_path / "results" / "gpu.json"
    assert gpu.main([*TINY, *flags, "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_it_runs_without_what_reads_media(tmp_path):
    """As on a machine with torch, timm and transformers alone. Every kind of row has its figures, one check among them."""
    program = """
import sys
for name in ("av", "torchaudio", "tensorboard", "pycocoevalcap", "pytest"):
    sys.modules[name] = None
import torch
torch.compile = lambda forward, **_: forward
sys.path.insert(0, sys.argv[1])
from benchmarks import gpu
sys.exit(gpu.main(sys.argv[2:]))
"""
    out = tmp_path / "gpu.json"
    works = "checks,step,profile,estimate,decode,rerank,compiled"
    flags = [*TINY, "--batches", "2", "--only", works, "--check", "resumed, float32", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", program, str(ROOT), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    rows = report["rows"]
    assert report["left_out"] == [] and not [row for row in rows if "error" in row]
    assert rows.pop(next(i for i, row in enumerate(rows) if row["work"] == "flops"))["gflops_per_clip"] > 0
    assert {row["work"] for row in rows} == {"check", "step", "profile", "estimate", "decode", "rerank"}
    (check,) = (row for row in rows if row["work"] == "check")
    assert check["ok"] and check["same_losses"] == gpu_checks.STEPS and check["difference"] == 0
    estimates = {row["checkpointing"]: row["estimated_gb"] for row in rows if row["work"] == "estimate"}
    assert estimates[True] < estimates[False] < 0.1  # of GB; what is measured on a CPU is the whole process
    (told,) = (row for row in rows if row["work"] == "profile")
    assert any("addmm" in kernel["name"].lower() for kernel in told["kernels"])
    steps = [row for row in rows if row["work"] == "step" and row["way"] == "ours"]
    assert [(row["checkpointing"], row["compiled"]) for row in steps] == [(False, False), (True, False), (False, True), (True, True)]
    assert set(report["ratio_to_plain"]) == {"step", "decode", "rerank"}
    plain_step = next(row for row in rows if row["work"] == "step" and row["way"] == "plain")
    assert plain_step["loss"] == pytest.approx(steps[0]["loss"], rel=0.2)  # dropout differs
    ours, plain = (row["mean_probability"] for row in rows if row["work"] == "rerank")
    assert ours == pytest.approx(plain, abs=0.01)
    assert all(row["mfu"] == pytest.approx(row["tflops"] / report["peak_tflops"]) and row["tflops"] > 0 for row in steps)
    assert all(row["peak_gb"] > 0 and row["clips_per_s"] == pytest.approx(2 / row["seconds"]) for row in steps)
    assert all(row["pairs_per_s"] > 0 for row in rows if row["work"] == "rerank")
    assert all(row["captions_per_s"] > 0 and row["tokens"] == 12 for row in rows if row["work"] == "decode")
    assert {"date", "device", "torch", "matrix_tflops", "peak_tflops", "parameters", "precision_reason"} <= report.keys()
    assert report["precision"] == "bf16"
    assert "addmm" in out.with_suffix(".profile.txt").read_text() and out.with_suffix(".trace.json.gz").is_file()


@pytest.mark.parametrize(("family", "works"), [("valor", {"flops", "step", "decode", "score"}),
                                               ("gram", {"flops", "step", "decode", "rerank", "score"})])
def test_the_other_families(tmp_path, family, works):
    only = ",".join(work for work in gpu.OF_FAMILY[family] if work in works)
    report = run(tmp_path, "--size", f"{family}_tiny", "--batches", "2", "--scored", "6", "--only", only)
    rows = report["rows"]
    assert {row["work"] for row in rows} == works and not [row for row in rows if "error" in row]
    steps = {row["way"]: row["loss"] for row in rows if row["work"] == "step" and not row["checkpointing"] and not row["compiled"]}
    assert steps["plain"] == pytest.approx(steps["ours"], rel=0.2)  # dropout differs
    scored = [row["mean_score"] for row in rows if row["work"] == "score"]
    assert scored[0] == pytest.approx(scored[-1], abs=1e-5) and len(scored) == (2 if family == "valor" else 1)


def test_the_large_valor_is_the_released_one():
    """530.7 million trained parameters without CLIP's text tower, less what the release carries unused."""
    model = make_model(SIZES["valor"], torch.device("meta"))
    assert 5.2e8 < sum(parameter.numel() for parameter in model.parameters()) < 5.4e8


def test_what_does_not_fit_is_a_row(tmp_path, monkeypatch):
    """No larger batch is tried after it; the other ways are: the plain one at the smallest batches, recomputing at the largest, and
    compiled at those that were best."""
    tried = []

    def steps(model, size, clips, count, way):
        tried.append(clips)
        if clips == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return {"seconds": 1.0, "clips_per_s": float(clips), "peak_gb": 1.0, "loss": 0.0}

    monkeypatch.setattr(gpu, "train_steps", steps)
    monkeypatch.setattr(gpu, "step_flops", lambda model, size, clips: 1e9)
    rows = run(tmp_path, "--only", "step,compiled", "--batches", "8", "2", "4")["rows"]
    assert tried == [2, 4, 2, 4, 4, 2, 2]
    errors = [row.get("error") for row in rows if row["work"] == "step" and row["way"] == "ours"]
    assert errors == [None, "out of memory", "out of memory", None, None]


def test_any_other_failure_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "caption_clips", lambda *_: 1 / 0)
    rows = run(tmp_path, "--only", "decode,rerank")["rows"]
    assert rows[0]["error"] == "ZeroDivisionError: division by zero" and rows[0]["traceback"][-1] == rows[0]["error"]
    assert [r for r in rows if r["work"] == "rerank"][0]["pairs_per_s"] > 0


def test_the_time_limit_stops_what_runs_and_lists_the_rest(tmp_path, monkeypatch):
    """The row in hand uses up the time that is left, and would take ten minutes."""
    def forever(*_):
        made[0].end = time.monotonic() + 0.2
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        time.sleep(600)

    made, begin = [], gpu.Report.__init__
    monkeypatch.setattr(gpu.Report, "__init__", lambda self, *given: (made.append(self), begin(self, *given))[1])
    monkeypatch.setattr(gpu, "caption_clips", forever)
    report = run(tmp_path, "--only", "decode,rerank")
    assert "time limit" in report["rows"][0]["error"] and report["rows"][0]["spent_s"] < 500
    assert "rerank" in {row["work"] for row in report["left_out"]}


def test_an_unknown_work_names_the_valid_ones(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--size", "tiny", "--only", "stepp"])
    assert "unknown stepp; valid are checks, step, profile, estimate, decode, rerank, compiled" in capsys.readouterr().err


def test_the_audio_visual_llm(tmp_path):
    rows = run(tmp_path, "--size", "avllm_tiny", "--batches", "2")["rows"]
    assert not [row for row in rows if "error" in row]
    assert [row["checkpointing"] for row in rows if row["work"] == "step"] == [False, True]
    assert all(row["clips_per_s"] > 0 and row["mfu"] > 0 for row in rows if row["work"] == "step")


def finished(rows, **content):
    """In place of a part's process: its file, and how it ended."""
    def run(command, limit):
        out = Path(command[command.index("--out") + 1])
        part = out.stem.rpartition(".")[2]
        out.write_text(json.dumps({"device": "a card", "rows": rows.get(part, []), "left_out": [], **content}))
        return "done"
    return run


def test_everything_is_a_process_for_each_part(tmp_path, monkeypatch):
    step = {"work": "step", "way": "ours", "clips": 8, "checkpointing": False, "compiled": False, "clips_per_s": 9.0, "mfu": 0.5,
            "peak_gb": 7.0}
    rows = {"checks": [{"work": "check", "check": "one", "ok": True}, {"work": "check", "check": "two", "ok": False}],
            "vast": [step, {**step, "mfu": 0.4}, {"work": "profile", "gap_share": 0.02}, {"work": "estimate", "ratio": 0.95},
                     {"work": "estimate", "ratio": 1.02}]}
    monkeypatch.setattr(gpu_parts, "run", finished(rows, ratio_to_plain={"decode": 12.0}))
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(out)]) == 1  # a check failed
    report = json.loads(out.read_text())
    assert list(report["parts"]) == gpu_parts.NAMES and {part["ended"] for part in report["parts"].values()} == {"done"}
    told = report["summary"]
    assert told["checks"] == {"passed": 1, "of": 2, "failed": ["two"]} and told["vast step"]["mfu"] == 0.5
    assert told["vast gap_share"] == 0.02 and told["vast estimate over measured peak"] == [0.95, 1.02]
    assert told["vast decode, times the plain way"] == 12.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json"]


def test_a_part_that_ended_badly_takes_no_other_with_it(tmp_path, monkeypatch):
    def run(command, limit):
        return "status -11: Segmentation fault" if "avllm" in command else finished({})(command, limit)

    monkeypatch.setattr(gpu_parts, "run", run)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--out", str(out)]) == 1
    ended = {name: part["ended"] for name, part in json.loads(out.read_text())["parts"].items()}
    assert ended["avllm"].startswith("status -11") and ended["gram"] == "done"


def test_parts_for_which_there_is_no_time_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_parts, "run", finished({}))
    out = tmp_path / "gpu.json"
    flags = ["--device", "cpu", "--tiny", "--parts", "checks,gram", "--out", str(out), "--limit_s"]
    assert gpu.main([*flags, "60"]) == 0
    assert list(json.loads(out.read_text())["parts"]) == ["checks", "gram"]
    gpu.main([*flags, "3"])
    report = json.loads(out.read_text())
    assert report["left_out"] == ["checks", "gram"] and report["parts"] == {}


def test_what_hangs_is_killed():
    assert gpu_parts.run([sys.executable, "-c", "import time; time.sleep(600)"], 0.5).startswith("killed after")
    assert gpu_parts.run([sys.executable, "-c", "import sys; sys.exit('no driver')"], 60.0) == "status 1: no driver"


def test_the_recorded_clips_are_what_is_read_today():
    from safetensors.torch import load_file

    kept, now = load_file(recorded.CLIPS), recorded.decoded()
    assert torch.equal(kept["frames"], now["frames"]) and torch.allclose(kept["mel"].float(), now["mel"].float(), atol=0.02)
    assert len(recorded.samples("pretrain")) == len(recorded.samples("qa")) == len(kept["frames"])


def test_a_batch_beside_the_cpu():
    """In bf16, which is the device here."""
    found = gpu_checks.one_batch(torch.device("cpu"), "bf16")
    assert found["ok"] and 0 < found["omnistamps_pretrain"]["losses"] < gpu_checks.NEAR["bf16"]


def test_flops_are_those_of_the_step():
    """Twice as many clips take twice as many, and at least 6 for each weight of the vision blocks and each of its 5 tokens."""
    model = make_model(SIZES["tiny"], torch.device("cpu"))
    weights = sum(parameter.numel() for parameter in model.vision_encoder.visual.blocks.parameters() if parameter.ndim == 2)
    two, four = (gpu.step_flops(model, SIZES["tiny"], clips) for clips in (2, 4))
    assert two == pytest.approx(four, rel=0.1) and two > 6 * 5 * weights
    assert all(parameter.grad is None for parameter in model.parameters())


def test_checkpointing_changes_the_memory_and_not_the_loss():
    size = SIZES["tiny"]
    model = make_model(size, torch.device("cpu")).eval()
    batch = make_batch(size, 2, frames=1, device=torch.device("cpu"))
    gpu.set_up(model, checkpointing=True, compiled=False)
    assert model.vision_encoder.visual.grad_checkpointing and model.audio_encoder.encoder.checkpointing
    assert model.multimodal_encoder.checkpointing
    first = model(batch, size.task, StepRandom(0, 0))["loss"]
    gpu.set_up(model, checkpointing=False, compiled=False)
    assert torch.equal(first, model(batch, size.task, StepRandom(0, 0))["loss"]) and not model.multimodal_encoder.checkpointing


def test_the_released_size_is_the_released_model():
    """1.25 billion trained parameters, without memory for them."""
    model = make_model(SIZES["released"], torch.device("meta"))
    assert 1.2e9 < sum(parameter.numel() for parameter in model.parameters()) < 1.3e9
    assert released.SIZES["released"].vocabulary == model.multimodal_encoder.sizes.vocab_size == 30_522
