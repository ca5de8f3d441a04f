"""The manifests of launchers: what they start is there, and starts as many processes as they ask for GPUs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from omnivast.config.load import load_config

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[3]
LAUNCH = ROOT / "scripts" / "launch"
JOB = LAUNCH / "pytorchjob.yaml"
SKY = LAUNCH / "skypilot.yaml"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def printed(command: str, tmp_path: Path, **environment: str) -> str:
    """The command line that a manifest's shell command comes to, as its script prints it."""
    for words, others in (("source scripts/_environment.sh", ":"), ("--resume true", f"--resume true --print --output_dir {tmp_path}")):
        command = command.replace(words, others)
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env={"PATH": os.environ["PATH"], **environment}, capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_pytorchjob_is_one():
    job = read(JOB)
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert set(replicas) == {"Master", "Worker"} and replicas["Master"]["replicas"] == 1
    for part in replicas.values():
        pod = part["template"]["spec"]
        (container,) = pod["containers"]
        assert container["name"] == "pytorch"  # the name that the operator looks for
        assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == job["spec"]["nprocPerNode"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert all(isinstance(variable["value"], str) for variable in container["env"])
        assert part["restartPolicy"] == "OnFailure"


def test_the_pytorchjob_by_the_operators_own_types():
    """Where Kubeflow's client (kubeflow-training) is installed: nothing is lost on the way through its types, which know every field."""
    training = pytest.importorskip("kubeflow.training")
    client, job = training.ApiClient(), read(JOB)
    found = client.deserialize(SimpleNamespace(data=json.dumps(job)), "KubeflowOrgV1PyTorchJob")
    assert client.sanitize_for_serialization(found) == job


def test_the_pytorchjob_starts_torchrun(tmp_path):
    container = read(JOB)["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    said = printed(container["args"][0], tmp_path, PET_NNODES="8", PET_NODE_RANK="3", MASTER_ADDR="omnivast-pretrain-master-0",
                   MASTER_PORT="23456")
    for wanted in ("torch", "8", "omnivast-pretrain-master-0", "23456", "--hang_minutes 20", "--async_save true"):
        assert wanted in said


def test_skypilot_starts_torchrun(tmp_path):
    task = read(SKY)
    assert set(task) == {"name", "workdir", "num_nodes", "resources", "envs", "file_mounts", "setup", "run"}
    assert all(isinstance(value, str) for value in task["envs"].values())
    gpus = task["resources"]["accelerators"].split(":")[1]
    said = printed(task["run"], tmp_path, SKYPILOT_NUM_GPUS_PER_NODE=gpus, SKYPILOT_NUM_NODES=str(task["num_nodes"]),
                   SKYPILOT_NODE_RANK="0", SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2")
    for wanted in ("torch", "10.0.0.1", "29500", "--hang_minutes 20"):
        assert wanted in said
    assert "10.0.0.2" not in said


def test_the_flags_are_flags(tmp_path):
    """Of run.py, as the pretraining's config takes them."""
    for command in (read(SKY)["run"], read(JOB)["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["args"][0]):
        flags = re.findall(r"--(\w+) (\S+)", command.split("pretrain_vast.sh")[1])
        words = [word for flag in flags for word in (f"--{flag[0]}", flag[1])]
        config = load_config(["--config", str(ROOT / "config/vast/pretrain_cfg/pretrain_vast.json"), *words])
        assert config.run_cfg.hang_minutes == 20 and config.run_cfg.async_save
