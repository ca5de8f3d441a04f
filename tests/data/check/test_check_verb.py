"""``omnivast check``: its flags and exit status, and that it opens clips as the model of the config takes them."""

import dataclasses
import json
import shutil

import pytest

from omnivast.check import main, spec_of
from omnivast.config.schema import Config, DataConfig, RunConfig
from omnivast.data.check.datasets import check
from omnivast.data.dataset import IndexedDataset
from omnivast.data.spec import InputSpec
from omnivast.model.build import build_model
from tests.model.tiny import CONFIG as VAST
from tests.model.valor.test_valor_processes import CONFIG as VALOR

FAMILIES = {"vast": VAST, "gram": dataclasses.replace(VAST, model_type="gram"), "valor": VALOR,
            "without sound": dataclasses.replace(VAST, audio_encoder_type=None)}


@pytest.fixture
def damaged(corpus, tmp_path):
    """The path of the corpus with a broken clip, and one that is absent."""
    shutil.copytree(corpus.root, tmp_path / "own")
    videos = tmp_path / "own" / "videos"
    (videos / "clip1.mp4").write_bytes(b"no video at all")
    (videos / "clip2.mp4").unlink()
    return tmp_path / "own"


def test_command_line(damaged, tmp_path, caplog):
    own = {"name": "clips", "txt": str(damaged / "train.json"), "vision": str(damaged / "videos"), "task": "ret%tv",
           "vision_sample_num": 2, "steps": 1}
    (tmp_path / "config.json").write_text(json.dumps({"data_cfg": {"train": [own]}}))
    command = ["--config", str(tmp_path / "config.json"), "--workers", "0"]
    assert main([*command, "--clips", "1"]) == 0
    assert main(command) == 1
    assert main([*command, "--max_unreadable", "0.5"]) == 0
    assert main([*command, "--lerning_rate", "0.5"]) == 2
    for wrong in (["--clips", "0"], ["--clips", "-3"], ["--clips", "all"], ["--workers", "-1"]):
        with pytest.raises(SystemExit) as end:
            main([*command, *wrong])
        assert end.value.code == 2


def test_threshold_on_the_command_line_and_interruption(damaged, tmp_path, caplog, monkeypatch):
    own = {"name": "clips", "txt": str(damaged / "train.json"), "vision": str(damaged / "videos"), "task": "ret%tv",
           "vision_sample_num": 2, "steps": 1}
    (tmp_path / "config.json").write_text(json.dumps({"data_cfg": {"train": [own]}}))
    command = ["--config", str(tmp_path / "config.json"), "--workers", "0"]
    assert main([*command, "--threshold", "0.25"]) == 0  # 2 of 8
    assert main([*command, "--threshold", "0.24"]) == 1
    for wrong in ("2", "x", "-0.1"):
        with pytest.raises(SystemExit) as end:
            main([*command, "--threshold", wrong])
        assert end.value.code == 2
    monkeypatch.setattr("omnivast.check.check", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    caplog.clear()
    assert main(command) == 130 and [record.getMessage() for record in caplog.records] == ["stopped; nothing was changed"]


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_are_those_of_the_model_that_a_run_builds(family):
    config = Config(RunConfig(captioner_mode=True), FAMILIES[family], DataConfig())
    model = build_model(config.model_cfg, load_towers=False)
    built = InputSpec.of(config.model_cfg, model.audio_frontend, True, model.frame_resize, model.one_caption_length,
                         negatives=model.learns_negatives)
    assert spec_of(config) == built
    assert (built.audio_frontend, built.resize.antialias) == (("valor_ast", False) if family == "valor" else ("beats", True))


def test_what_it_keeps_serves_the_run(corpus, tmp_path, caplog):
    """And what its reading has to say is said before the run."""
    dataset = corpus.config(cache_dir=str(tmp_path / "cache"), task="ret%tva")
    config = Config(RunConfig(), VALOR, DataConfig((dataset,)))
    [report] = check(config, spec_of(config), clips=2)
    assert not report.failed and "samples a second that the audio encoder was trained at" in caplog.text
    kept = sorted((tmp_path / "cache").rglob("*"))
    model = build_model(VALOR, load_towers=False)
    own = InputSpec.of(VALOR, model.audio_frontend, frame_resize=model.frame_resize)
    clips = IndexedDataset(dataset, own, seed=1, training=True)
    assert clips.media(0, 0).has_sound and sorted((tmp_path / "cache").rglob("*")) == kept
