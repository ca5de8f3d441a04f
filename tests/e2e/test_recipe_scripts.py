"""The scripts of the recipes: the command that each makes, the SLURM job, and both captioners labelling OmniStamps."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from omnivast.config.load import load_config
from omnivast.scripts.vast.zero_shot import _options
from tests.e2e.program import ROOT, TIMEOUT

VAST = ROOT / "scripts" / "vast"
VALOR, GRAM, AVLLM = ROOT / "scripts" / "valor", ROOT / "scripts" / "gram", ROOT / "scripts" / "avllm"
SCRIPTS = [ROOT / "scripts" / "pretrain_vast.sh", ROOT / "scripts" / "slurm.sh", *sorted(VAST.glob("*.sh")), *sorted(VALOR.glob("*.sh")),
           *sorted(GRAM.glob("*.sh")), *sorted(path for path in AVLLM.glob("*.sh") if path.stem != "omnistamps")]
KINDS = {"finetune_ret": "retrieval", "finetune_cap": "caption", "finetune_qa": "VQA"}
RECIPES = [(script, path.stem.split("-", 1)[1]) for script, kind in KINDS.items()
           for path in sorted((ROOT / "config" / "vast" / "finetune_cfg").glob(f"{kind}-*.json"))]
LAUNCHER = {"GPUS", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES", "OMNIVAST_SRUN"}


SIGNALLED = 200.0
"""Seconds in which a script that gets a signal must have ended, on a machine that does ten other things at the same time."""


def begun(script, *arguments, cwd=ROOT, **variables):
    """The script in a process group of its own, in which SIGINT is not ignored, as it is where tests run in the background: bash cannot
    trap what was ignored when it began."""
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHER and not key.startswith("SLURM_")}
    environment.update({"VIRTUAL_ENV": sys.prefix, "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", **variables})
    return subprocess.Popen(["bash", str(script), *map(str, arguments)], cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, start_new_session=True,
                            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL))


def ended(process, seconds=TIMEOUT):
    """All that it wrote; it and what it started are killed, and the test fails, where it has not ended in time."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"not ended after {seconds:.0f} s: {process.communicate()[0]}")


def bash(script, *arguments, **more):
    process = begun(script, *arguments, **more)
    text = ended(process)
    return subprocess.CompletedProcess(process.args, process.returncode, text)


def command(script, *arguments, **variables):
    """The words of the command that a script would run."""
    done = bash(script, *arguments, "--print", **variables)
    assert done.returncode == 0 and done.stdout.startswith("$ "), done.stdout
    return shlex.split(done.stdout[2:])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_from_anywhere(script, tmp_path):
    done = bash(script, "--help", cwd=tmp_path)
    assert done.returncode == 0 and str(script.relative_to(ROOT)) in done.stdout and "--gpus N" in done.stdout
    assert subprocess.run(["bash", "-n", script]).returncode == 0 and os.access(script, os.X_OK)


def test_help_lists_the_benchmarks():
    for name, kind in KINDS.items():
        listed = bash(VAST / f"{name}.sh", "--help").stdout.split("NAME is one of:\n")[1].split("\n\n")[0].split()
        assert listed == [benchmark for script, benchmark in RECIPES if script == name], kind


@pytest.mark.parametrize("script, benchmark", RECIPES, ids=[f"{KINDS[script]}-{benchmark}" for script, benchmark in RECIPES])
def test_one_command_per_recipe(script, benchmark, monkeypatch, tmp_path):
    words = command(VAST / f"{script}.sh", benchmark, "--learning_rate", "3e-4", GPUS="0")
    recipe = f"{KINDS[script]}-{benchmark}"
    start = "output/vast/pretrain_vast" + (f"/downstream/caption-{benchmark[:-5]}" if benchmark.endswith("_scst") else "")
    assert words == [
        "python", "run.py", "--config", f"config/vast/finetune_cfg/{recipe}.json",
        "--output_dir", f"output/vast/pretrain_vast/downstream/{recipe}", "--pretrain_dir", start, "--learning_rate", "3e-4",
        "--device", "cpu"]
    monkeypatch.chdir(ROOT)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "hps.json").write_text('{"model_cfg": {}}')
    words[words.index("--pretrain_dir") + 1] = str(tmp_path)
    assert load_config(words[2:]).run_cfg.learning_rate == 3e-4


@pytest.mark.parametrize("script, name, config, output, start", [
    (VALOR / "pretrain.sh", "large", "valor/pretrain_cfg/pretrain_large", "valor/pretrain_large", None),
    (VALOR / "finetune_ret.sh", "valor32k", "valor/finetune_cfg/retrieval-valor32k", "valor/pretrain_base/downstream/retrieval-valor32k",
     "valor/pretrain_base"),
    (VALOR / "finetune_cap.sh", "vatex_scst", "valor/finetune_cfg/caption-vatex_scst",
     "valor/pretrain_base/downstream/caption-vatex_scst", "valor/pretrain_base/downstream/caption-vatex"),
    (VALOR / "finetune_qa.sh", "music", "valor/finetune_cfg/VQA-music", "valor/pretrain_base/downstream/VQA-music", "valor/pretrain_base"),
    (VALOR / "ablation.sh", "table8-tv_ta_tva", "valor/ablation_cfg/table8-tv_ta_tva", "valor/ablation/table8-tv_ta_tva", None),
    (GRAM / "pretrain.sh", None, "gram/pretrain_cfg/pretrain_gram", "gram/pretrain_gram", "vast/pretrain_vast"),
    (GRAM / "finetune_ret.sh", "vatex", "gram/finetune_cfg/retrieval-vatex", "gram/pretrain_gram/downstream/retrieval-vatex",
     "gram/pretrain_gram"),
    (AVLLM / "pretrain.sh", None, "avllm/pretrain_cfg/stage1", "avllm/stage1", None),
    (AVLLM / "instruct.sh", None, "avllm/finetune_cfg/stage2", "avllm/stage2", "avllm/stage1"),
    (AVLLM / "ablation.sh", "table4-pt1", "avllm/ablation_cfg/table4-pt1", "avllm/table4-pt1", "avllm/stage1"),
    (AVLLM / "finetune_qa.sh", "avsd", "avllm/finetune_cfg/VQA-avsd", "avllm/stage2/downstream/VQA-avsd", "avllm/stage2"),
    (AVLLM / "finetune_cap.sh", "clothov1", "avllm/finetune_cfg/caption-clothov1", "avllm/stage2/downstream/caption-clothov1",
     "avllm/stage2"),
], ids=lambda value: value.name if isinstance(value, Path) else None)
def test_commands_of_other_families(script, name, config, output, start):
    words = ["python", "run.py", "--config", f"config/{config}.json", "--output_dir", f"output/{output}"]
    words += ["--pretrain_dir", f"output/{start}"] if start else []
    assert command(script, *([name] if name else []), GPUS="1") == words and (ROOT / words[3]).is_file()


@pytest.mark.parametrize("family, number", [("valor", 23), ("gram", 6), ("avllm", 8)])
def test_zero_shot_tests_the_family_s_benchmarks(family, number, monkeypatch, tmp_path):
    """Each script names its folder of configs, and all that are there are tested."""
    folder = f"config/{family}/finetune_cfg"
    assert f"_zero_shot.sh\" --configs {folder} \"$@\"" in (ROOT / "scripts" / family / "zero_shot.sh").read_text()
    monkeypatch.chdir(ROOT)
    (tmp_path / "w.pt").touch()
    assert len(_options(["--configs", folder, "--checkpoint", str(tmp_path / "w.pt")])[0].benchmarks) == number


def test_processes_and_machines():
    pretrain = ROOT / "scripts" / "pretrain_vast.sh"
    last = ["run.py", "--config", "config/vast/pretrain_cfg/pretrain_vast.json", "--output_dir", "output/vast/pretrain_vast"]
    assert command(pretrain, "--gpus", 1) == ["python", *last]
    again = ["--max-restarts", "3", *last, "--resume", "true"]
    assert command(pretrain, CUDA_VISIBLE_DEVICES="0,3") == ["torchrun", "--nnodes", "1", "--nproc_per_node", "2", "--standalone", *again]
    assert command(pretrain, "--gpus", 2, "--max_restarts", 0)[5:] == ["--standalone", *last]
    assert "--max-restarts" not in command(pretrain, "--gpus", 2, "--mode", "testing", "--checkpoint", "x.pt")
    assert command(pretrain, CUDA_VISIBLE_DEVICES="") == ["python", *last, "--device", "cpu"]
    eight = ["torchrun", "--nnodes", "8", "--nproc_per_node", "4", "--rdzv-backend", "c10d", "--rdzv-endpoint", "first:29500",
             "--rdzv-id", "output-vast-pretrain_vast", "--rdzv-conf", "is_host=0", *again]
    assert command(pretrain, "--gpus=4", "--nnodes", 8, "--node_rank", 3, "--master_addr", "first") == eight
    assert command(pretrain, GPUS="4", NNODES="8", NODE_RANK="3", MASTER_ADDR="first") == eight


def test_what_cannot_be_started_is_said():
    for arguments, message in (
        ((), "finetune_ret.sh: name one of: activitynet audiocaps"), (("msrvt",), "unknown 'msrvt'; there are: activitynet"),
        (("msrvtt", "--gpus", "two"), "--gpus: expected a whole number, got 'two'"), (("msrvtt", "--gpus"), "--gpus: needs a value"),
        (("msrvtt", "--nnodes", "2", "--gpus", "1"), "--nnodes 2 needs --master_addr"),
        (("msrvtt", "--pretrain_dir", "/nowhere"), "/nowhere holds no trained run"),
    ):
        done = bash(VAST / "finetune_ret.sh", *arguments)
        assert done.returncode == 2 and message in done.stdout, done.stdout


def test_where_runs_start_and_resume(tmp_path):
    """Self-critical training starts from the best checkpoint, unless it has one of its own to resume from."""
    script, start = VAST / "finetune_cap.sh", tmp_path / "ce"
    for run in (start, tmp_path / "out"):
        (run / "ckpt").mkdir(parents=True)
    (start / "ckpt" / "best_vatex.cap.tvas.cider.pt").touch()
    common = ("vatex_scst", "--pretrain_dir", start, "--output_dir", tmp_path / "out", "--gpus", "1")
    best = ["--checkpoint", str(start / "ckpt" / "best_vatex.cap.tvas.cider.pt")]
    assert command(script, *common)[-2:] == best and command(script, *common, "--resume", "true")[-2:] == best
    assert command(script, *common, "--checkpoint", "x.pt").count("--checkpoint") == 1
    (tmp_path / "out" / "ckpt" / "model_step_5.pt").touch()
    assert command(script, *common, "--resume", "true")[-2:] == ["--resume", "true"]
    assert command(script, *common, "--resume", "true", "--checkpoint", "x.pt")[-2:] == ["--resume", "true"]
    assert "--resume" not in command(script, *common, "--resume", "true", "--mode", "testing", "--checkpoint", "x.pt")
    assert "--resume" not in command(script, *common, "--resume", "false")
    several = [*common[:-1], "2"]
    assert command(script, *several, "--resume", "true")[-2:] == ["--resume", "true"]
    refused = bash(script, *several, "--print")
    assert refused.returncode == 2 and "already holds a run: continue it with --resume true" in refused.stdout
    first = command(script, "vatex_scst", "--pretrain_dir", start, "--output_dir", tmp_path / "new", "--gpus", "2")
    assert first[-4:] == [*best, "--resume", "true"]
    alone = command(script, "vatex", "--output_dir", tmp_path, "--gpus", "1", "--checkpoint", "x.pt", "--mode", "testing")
    assert "--pretrain_dir" not in alone or (ROOT / "output/vast/pretrain_vast/log/hps.json").exists()
    scratch = command(script, "vatex", "--pretrain_dir", "none", "--gpus", "1")
    assert "--pretrain_dir" not in scratch and "output/vast/from_towers/downstream/caption-vatex" in scratch


# --------------------------------------------------------------------------------------------------------------------- SLURM


# The n-th call ends with the n-th status of the list, or with the only one.
SRUN = '''
echo "$@" > $here/srun.txt
echo $MASTER_PORT >> $here/starts
statuses=($(cat $here/status))
if [ ${#statuses[@]} -gt 1 ]; then exit ${statuses[$(($(wc -l < $here/starts) - 1))]}; fi
exit ${statuses[0]}'''


@pytest.fixture
def cluster(tmp_path):
    """A folder of sbatch, srun, scontrol and python that note how they are called; srun ends as ``status`` says."""
    for name, body in (("sbatch", "cat > $here/job.sh"), ("srun", SRUN),
                       ("scontrol", 'echo "$@" >> $here/scontrol.txt; echo node7'),
                       ("python", '[ "$1" = run.py ] || exec ' + sys.executable + ' "$@"\nenv > $here/env; echo "$@" > $here/words')):
        (tmp_path / name).write_text(f"#!/bin/bash\nhere={tmp_path}\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_the_slurm_job(cluster):
    path = f"{cluster}:{sys.prefix}/bin:{os.environ['PATH']}"
    done = bash(ROOT / "scripts" / "slurm.sh", "--nodes", 2, "--gpus", 4, "--partition=fast", "--max_restarts", 2,
                "scripts/vast/finetune_ret.sh", "msrvtt", "--train_batch_size", "32", PATH=path)
    assert done.returncode == 0, done.stdout
    job = (cluster / "job.sh").read_text()
    for line in ("job-name=finetune_ret-msrvtt", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "partition=fast", "requeue",
                 "open-mode=append", "signal=USR1@300"):
        assert f"#SBATCH --{line}\n" in job
    variables = {"PATH": path, "SLURM_JOB_ID": "30001", "SLURM_JOB_NODELIST": "node[7-8]"}
    # Saved for want of time, or pre-empted: queued again. Done or failed: not.
    for status, again in ((138, True), (143, True), (130, False), (0, False), (1, False)):
        (cluster / "status").write_text(str(status))
        (cluster / "scontrol.txt").unlink(missing_ok=True)
        assert bash(cluster / "job.sh", **variables).returncode == status
        assert ("requeue 30001" in (cluster / "scontrol.txt").read_text()) is again
    # Killed or hung: started again, on another port, twice at most.
    for statuses, code, starts in (("137 75 138", 138, 3), ("75 2 0", 2, 2), ("1 1 1 0", 1, 3)):
        (cluster / "status").write_text(statuses)
        (cluster / "starts").unlink()
        assert bash(cluster / "job.sh", **variables).returncode == code
        assert (cluster / "starts").read_text().split() == [str(30001 + n) for n in range(starts)]
    called = (cluster / "srun.txt").read_text().strip()
    assert called == "--kill-on-bad-exit=1 bash scripts/vast/finetune_ret.sh msrvtt --train_batch_size 32 --resume true"


def test_a_task_of_the_slurm_job(cluster):
    done = bash(VAST / "finetune_ret.sh", "msrvtt", "--resume", "true", "--pretrain_dir", "none", PATH=f"{cluster}:{os.environ['PATH']}",
                OMNIVAST_SRUN="1", GPUS="4", NNODES="2", SLURM_PROCID="5", SLURM_NTASKS="8", SLURM_LOCALID="1", MASTER_ADDR="node7",
                MASTER_PORT="20001")
    assert done.returncode == 0, done.stdout
    settings = set((cluster / "env").read_text().splitlines())
    assert {"RANK=5", "WORLD_SIZE=8", "LOCAL_RANK=1", "LOCAL_WORLD_SIZE=4", "MASTER_ADDR=node7", "MASTER_PORT=20001"} <= settings
    assert (cluster / "words").read_text().startswith("run.py --config config/vast/finetune_cfg/retrieval-msrvtt.json")


# Saves and ends with what a signal asks for; the second start is done at once. As torchrun, it knows SIGTERM alone, and ends with 1.
PROGRAM = """
echo "$@" >> $here/starts
[ $(wc -l < $here/starts) -gt 1 ] && exit 0
trap 'exit ${status:-138}' USR1
trap 'exit ${status:-143}' TERM
trap 'exit ${status:-130}' INT
touch $here/ready
while true; do sleep 0.05; done"""


@pytest.mark.parametrize("name", ["python", "torchrun"])
@pytest.mark.parametrize("number, slurm, expected", [(signal.SIGUSR1, {}, 0), (signal.SIGUSR1, {"SLURM_JOB_ID": "7"}, 138),
                                                     (signal.SIGTERM, {}, 143), (signal.SIGINT, {}, 130)])
def test_a_recipe_that_gets_a_signal(cluster, name, number, slurm, expected):
    many = name == "torchrun"
    program = PROGRAM.replace("trap 'exit ${status:-138}' USR1\n", "") if many else PROGRAM
    (cluster / name).write_text(f'#!/bin/bash\nhere={cluster}\n[[ "$*" = *run.py* ]] || exec {sys.executable} "$@"\n'
                                f'{"status=1" if many else ""}{program}\n')
    (cluster / name).chmod(0o755)
    script = begun(VAST / "finetune_ret.sh", "msrvtt", "--pretrain_dir", "none", "--output_dir", cluster / "out", "--gpus", 1 + many,
                   PATH=f"{cluster}:{sys.prefix}/bin:{os.environ['PATH']}", **slurm)
    deadline = time.monotonic() + SIGNALLED
    while not (cluster / "ready").exists() and script.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    script.send_signal(number)
    text = ended(script, SIGNALLED)
    assert script.returncode == expected, text
    starts = (cluster / "starts").read_text().splitlines()
    assert len(starts) == (1 if expected else 2) and all(start.count("--resume true") == 1 for start in starts[0 if many else 1 :])
    assert (cluster / "scontrol.txt").exists() is bool(slurm)


def test_without_slurm_the_job_can_be_read():
    script = ROOT / "scripts" / "slurm.sh"
    assert bash(script, "scripts/nothing.sh").returncode == 2 and "name the script" in bash(script).stdout
    assert "unknown option --gres" in bash(script, "--gres", "gpu:1", "scripts/pretrain_vast.sh").stdout
    job = bash(script, "--gpus", "0", "--print", "scripts/pretrain_vast.sh").stdout
    assert "gpus-per-node" not in job and "srun --kill-on-bad-exit=1 bash scripts/pretrain_vast.sh --resume true" in job


# ---------------------------------------------------------------------------------------------------------------- captioners


@pytest.mark.parametrize("kind", ["vision", "audio"])
def test_captioners_label_omnistamps(kind, trained, clips, tmp_path):
    ids = [row["video_id"] for row in json.loads((clips.folder / "cap_test.json").read_text())][:6]
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps([{"video_id": clip_id} for clip_id in ids]))
    # The clips' own sound is read where no folder of sounds is named.
    media = ["--data_cfg.val.0.vision", clips.folder / "clips", "--data_cfg.val.0.audio", "null"]
    small = ["--data_cfg.val.0.vision_sample_num", 2, "--vision_resolution", 32, "--num_threads", 1, "--n_workers", 0]
    done = bash(VAST / f"{kind}_captioner.sh", "generation", "--gpus", 0, "--pretrain_dir", trained, "--output_dir", tmp_path / "labels",
                "--data_cfg.val.0.txt", meta, *media, *small, "--generate_nums", 2)
    assert done.returncode == 0, done.stdout
    labels = json.loads(Path(tmp_path, "labels", "results", "yourdata", "labels.json").read_text())
    assert [next(iter(row.values())) for row in labels] == ids and all(f"{kind}_cap" in row for row in labels)
