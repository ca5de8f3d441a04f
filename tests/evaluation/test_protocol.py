"""What the protocol of a result says: its model, its settings, the code's commit."""

import importlib.util
import shutil
import subprocess

import pytest

from omnivast.config.schema import Config, DataConfig, DatasetConfig, ModelConfig, RunConfig
from omnivast.config.tasks import Objective
from omnivast.evaluation import protocol


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_ours_and_not_that_of_a_project_we_are_installed_in(tmp_path):
    def git(*words):
        command = ["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@example.org", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "environment" / "evaluation" / "protocol.py"
    file.parent.mkdir(parents=True)
    shutil.copy(protocol.__file__, file)
    (tmp_path / "theirs.py").write_text("")
    spec = importlib.util.spec_from_file_location("installed_protocol", file)
    installed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installed)
    git("init", "-q")
    git("add", "theirs.py")
    git("commit", "-qm", "theirs")
    assert installed.code_commit() is None
    git("add", ".")
    git("commit", "-qm", "ours")
    assert installed.code_commit() == git("rev-parse", "HEAD")
    file.write_text("changed")
    assert installed.code_commit() == git("rev-parse", "HEAD") + "+changes"


@pytest.mark.parametrize(("task", "backend"), [("cap%tva", "librosa"), ("cap%tv", None)])
def test_the_protocol_names_the_model_and_what_read_the_sound(task, backend):
    dataset = DatasetConfig(name="own", task=task, vision_sample_num=4, audio_sample_num=1, audio_backend="librosa")
    config = Config(RunConfig(), ModelConfig(model_type="fake"), DataConfig(val=(dataset,)))
    own = protocol.build(Objective.CAPTION, dataset, config, data={}, facts={}, provenance={}, device="cpu", seconds=0.0)
    assert own["model_type"] == "fake" and own.get("audio_backend") == backend
