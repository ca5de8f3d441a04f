"""What a family cannot do, and what it does not read, is said in one line, before a model is built and long before a first batch."""

import dataclasses
import json
import logging

import pytest

from omnivast.config.fields import section_keys
from omnivast.config.load import config_hash, load_config, resolved
from omnivast.config.schema import Config, DataConfig, DatasetConfig, RunConfig
from omnivast.config.tasks import CaptionKind
from omnivast.data.spec import InputSpec
from omnivast.model.build import model_of
from omnivast.model.interface import MODELS, Model, ModelError
from omnivast.training.checkpoints.checkpoint import CheckpointError, check_config
from tests.e2e import fake_model  # noqa: F401  (enters the family "fake")
from tests.e2e.program import ROOT, TINY
from tests.model.tiny import CONFIG as VAST
from tests.model.valor.test_valor_processes import CONFIG as VALOR

FAMILIES = {"vast": VAST, "gram": dataclasses.replace(VAST, model_type="gram"), "valor": VALOR}


def build(family, task, which="train", run=None, **changes):
    """The model of a run with one dataset, and whether it was refused before any of it was made."""
    dataset = DatasetConfig(name="clips", task=task, **{"vision_sample_num": 2, "audio_sample_num": 1, **changes})
    config = Config(RunConfig(**run or {}), FAMILIES[family], DataConfig(**{which: (dataset,)}))
    return model_of(config, load_towers=True)


@pytest.fixture
def nothing_is_built(monkeypatch):
    def fail(cls, cfg):
        raise AssertionError("the model was built first")

    for family in FAMILIES:
        monkeypatch.setattr(MODELS.find(family), "build", classmethod(fail))


@pytest.mark.parametrize("which", ["train", "val"])
@pytest.mark.parametrize("family, task, changes, message", [
    ("valor", "ret%tv", {"vision_sample_num": 33}, "vision_sample_num is 33, but VALOR takes 32 frames of a clip at most"),
    ("valor", "cap%tva", {"audio_sample_num": 33}, "audio_sample_num is 33, but VALOR takes 32 slices of sound of a clip at most"),
    ("vast", "ret%tv_mlm%tv", {}, "task 'ret%tv_mlm%tv': VAST is neither trained nor tested by mlm; its objectives are ret, cap, qa"),
    ("gram", "mlm%tv", {}, "task 'mlm%tv': GRAM is neither trained nor tested by mlm; its objectives are ret, cap, qa"),
])
def test_what_no_model_of_a_family_can_do_is_said_before_one_is_built(nothing_is_built, which, family, task, changes, message):
    with pytest.raises(ModelError) as error:
        build(family, task, which, **changes)
    assert str(error.value) == f"data_cfg.{which}[0] 'clips': {message}"


def test_as_many_frames_as_it_takes():
    assert build("valor", "ret%tv", vision_sample_num=32) and build("valor", "ret%ta", vision_sample_num=33)
    assert build("vast", "ret%tv", vision_sample_num=33)


@pytest.mark.parametrize("family, task, message", [
    ("valor", "ret%tvs", "VALOR has no subtitles"), ("valor", "cap%tvas", "VALOR has no subtitles"),
    ("vast", "ret%tas", "no contrastive head"), ("vast", "ret%v-a", "is one of VALOR's"), ("gram", "ret%v-ta", "is one of VALOR's"),
])
def test_groups_that_it_has_no_score_for_are_said_with_the_dataset(family, task, message):
    with pytest.raises(ModelError, match=rf"^data_cfg.val\[0\] 'clips': task '{task}': .*{message}"):
        build(family, task, "val")


@pytest.mark.parametrize("flags, message", [
    (["--train_vision_sample_num", "33"], "data_cfg.train[0] 'omnistamps_pretrain': vision_sample_num is 33"),
    (["--test_audio_sample_num", "40"], "data_cfg.val[0] 'omnistamps_ret': audio_sample_num is 40"),
    (["--mode", "testing", "--checkpoint", "x.pt", "--data_cfg.val.1.vision_sample_num", "64"], "data_cfg.val[1] 'omnistamps_cap'"),
    (["--mode", "testing", "--checkpoint", "x.pt", "--captioner_mode", "true", "--test_task", "cap%tv", "--test_vision_sample_num", "33"],
     "data_cfg.val[0] 'omnistamps_ret': vision_sample_num is 33"),
])
def test_33_frames_in_configs_of_training_testing_and_labelling(monkeypatch, nothing_is_built, flags, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ModelError) as error:
        model_of(load_config(["--config", "config/debug/valor_tiny.json", *flags]), load_towers=False)
    assert str(error.value).startswith(message)


def test_a_family_that_does_not_caption_refuses_to_label(monkeypatch):
    class Silent(Model):
        objectives = Model.objectives[:1]

    monkeypatch.setitem(MODELS._items, "silent", Silent)
    config = Config(RunConfig(mode="testing", captioner_mode=True), dataclasses.replace(VAST, model_type="silent"),
                    DataConfig(val=(DatasetConfig(name="mine", task="cap%tv", vision_sample_num=2),)))
    with pytest.raises(ModelError, match="'mine': task 'cap%tv': Silent is neither trained nor tested by cap; its objectives are ret$"):
        model_of(config, load_towers=False)


def test_re_ranking_without_a_matching_head_is_told(caplog):
    default = section_keys("run_cfg")["itm_rerank_num"].default
    for family, number, told in (("valor", 20, 1), ("valor", 0, 0), ("valor", default, 0), ("vast", 20, 0)):
        caplog.clear()
        build(family, "ret%tv", "val", run={"itm_rerank_num": number})
        assert len(caplog.messages) == told
        assert not told or caplog.messages[0].startswith("run_cfg.itm_rerank_num 20 has no effect: VALOR has no matching head")


# ------------------------------------------------------------------------------------------------- settings of other families


@pytest.mark.parametrize("family, flags, messages", [
    ("valor", ["--gram_cosine", "0.5"], ["model_cfg.gram_cosine 0.5: read by model_type gram alone"]),
    ("valor", ["--itm_ratio", "1.0", "--max_subtitle_len", "30"],
     ["model_cfg.itm_ratio 1.0, max_subtitle_len 30: read by model_type vast and gram alone"]),
    ("vast", ["--contra_type", "coarse", "--gram_volume", "task"],
     ["model_cfg.gram_volume \"task\": read by model_type gram alone", "model_cfg.contra_type \"coarse\": read by model_type valor alone"]),
    ("gram", ["--use_task_prompt", "true", "--gram_cosine", "0.5"], ["model_cfg.use_task_prompt true: read by model_type valor alone"]),
    ("valor", ["--contra_type", "coarse", "--contra_loss_ratio", "1.5"], []),
    ("of_another_program", ["--contra_type", "coarse", "--gram_cosine", "0.5"], []),
])
def test_settings_of_another_family_are_told(monkeypatch, tmp_path, caplog, family, flags, messages):
    monkeypatch.chdir(ROOT)
    content = json.loads((ROOT / TINY).read_text())
    content["model_cfg"].pop("itm_ratio")
    (tmp_path / "c.json").write_text(json.dumps(content))
    caplog.set_level(logging.WARNING, "omnivast")
    load_config(["--config", str(tmp_path / "c.json"), "--model_type", family, *flags])
    told = [message for message in caplog.messages if "read by" in message]
    assert [message.split("; ")[0] for message in told] == messages
    assert all(message.endswith(f"without effect, because model_type is {family}") for message in told)


def test_every_setting_says_whose_it_is():
    """A help that begins with a family's name goes with ``of``, but for label_smoothing, which each family reads in its way."""
    known = {name for name in MODELS if name in (*FAMILIES, "avllm")}
    for name, setting in section_keys("model_cfg").items():
        of = setting.metadata.get("of", ())
        assert set(of) <= known, name
        for family in known:
            if setting.metadata["help"].startswith((f"{family.upper()}:", f"{family.upper()},", f"model_type {family}:")):
                assert family in of or name == "label_smoothing", f"{name}: help names {family}, of is {of}"


def test_lengths_that_are_not_read_need_no_positions(monkeypatch):
    monkeypatch.chdir(ROOT)
    short = ["--config", "config/debug/valor_tiny.json", "--model_cfg.text_encoder_cfg.max_position_embeddings", "64"]
    assert load_config(short).model_cfg.max_omni_caption_len == 70
    with pytest.raises(ValueError, match="max_omni_caption_len is 70, but the text encoder has only 64 positions"):
        load_config([*short, "--model_type", "vast"])


def test_captions_of_all_kinds_have_one_length_for_valor():
    """Its fine scores depend on how many tokens a text may have."""
    assert MODELS.find("valor").one_caption_length and not MODELS.find("vast").one_caption_length
    for one, longest in ((True, 40), (False, 70)):
        lengths = InputSpec.of(VAST.__class__(), one_caption_length=one).lengths(several_kinds=True)
        assert lengths.caption[CaptionKind.OMNI] == longest and lengths.caption[CaptionKind.VISION] == 40


def test_a_run_of_another_family_is_not_resumed(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    before, now = (load_config(["--config", TINY, "--model_type", family, "--train_task", "ret%tv"]) for family in ("vast", "gram"))
    with pytest.raises(CheckpointError, match='Checkpoint → now:\n  model_cfg.model_type: "vast", now "gram"'):
        check_config({"config": resolved(before), "config_hash": config_hash(before)}, config_hash(now), resolved(now), tmp_path)


@pytest.mark.parametrize("group", ["v-a", "v-ta", "a-tv"])
def test_coarse_alignment_has_no_groups_of_tracks(group):
    config = Config(RunConfig(), dataclasses.replace(VALOR, contra_type="coarse"),
                    DataConfig(train=(DatasetConfig(name="clips", task=f"ret%{group}", vision_sample_num=2, audio_sample_num=1),)))
    with pytest.raises(ModelError, match=rf"^data_cfg.train\[0\] 'clips': .*group {group} .* needs model_cfg.contra_type fine, not coarse"):
        model_of(config, load_towers=False)
