"""Where a setting comes from: schema, default files, the pretrained run, the config itself, flags; and files that cannot be read."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnivast.config.compare import keys_without_say, passive_keys, precision_of, same_but_for_length
from omnivast.config.fields import moved_keys
from omnivast.config.load import ConfigError, config_hash, diff, load_config, resolved
from omnivast.config.schema import Config, DataConfig, DatasetConfig, ModelConfig, RunConfig
from tests.config.conftest import BASE, DATASET

ROOT = Path(__file__).parents[2]


def fails(shop, message, *flags, **keys):
    with pytest.raises(ConfigError) as error:
        shop.load(*flags, **keys)
    assert message in str(error.value), str(error.value)


def test_defaults_come_from_the_schema(shop):
    config = shop.load()
    assert config.run_cfg == RunConfig()
    assert config.model_cfg == ModelConfig(max_vision_sample_num=2, max_audio_sample_num=1, label_smoothing=0.1)
    assert config.data_cfg.train[0] == DatasetConfig(**DATASET, steps=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.run_cfg.seed = 1


def test_precedence_from_weakest_to_strongest(shop):
    shop.write("far.json", {"seed": 1, "weight_decay": 0.1, "log_steps": 7, "warmup_ratio": 0.3})
    shop.write("near.json", {"default": "far.json", "seed": 2, "weight_decay": 0.2, "log_steps": 8})
    run = shop.load("--seed", "4", run={"default": "near.json", "seed": 3, "weight_decay": 0.3}).run_cfg
    assert (run.seed, run.weight_decay, run.log_steps, run.warmup_ratio, run.optim) == (4, 0.3, 8, 0.3, "adamw")


def test_default_is_found_from_the_working_directory_first_then_beside_the_config(shop):
    shop.write("sub/c.json", {**BASE, "run_cfg": {"default": "d.json"}})
    shop.write("sub/d.json", {"seed": 1})
    assert load_config(["--config", "sub/c.json"]).run_cfg.seed == 1
    shop.write("d.json", {"seed": 2})
    assert load_config(["--config", "sub/c.json"]).run_cfg.seed == 2


def test_missing_default_names_the_chain(shop):
    shop.write("near.json", {"default": "./lost.json"})
    fails(shop, "run_cfg: the default file ./lost.json does not exist", run={"default": "near.json"})
    fails(shop, "named by c.json -> near.json", run={"default": "near.json"})


def test_a_config_changes_its_base(shop):
    """Keys, default files, whole lists of datasets, or keys of all their datasets."""
    shop.write("weak.json", {"seed": 1, "weight_decay": 0.1, "log_steps": 7})
    shop.write("strong.json", {"seed": 2, "weight_decay": 0.2})
    shop.write("deep/base.json", {**BASE, "about": "what it is", "run_cfg": {"default": "weak.json", "seed": 3}})
    shop.write("middle.json", {"base": "deep/base.json", "run_cfg": {"default": "strong.json"}, "data_cfg": {
        "train": {"task": "cap%tv", "steps": None, "epoch": 2}, "val": {"batch_size": 3}}})
    shop.write("top.json", {"base": "middle.json", "run_cfg": {"beam_size": 5}, "data_cfg": {
        "train": {"task": "ret%ta"}, "val": [{**DATASET, "name": "own"}]}})
    config = load_config(["--config", "top.json"])
    run, (train,), (val,) = config.run_cfg, config.data_cfg.train, config.data_cfg.val
    assert (run.seed, run.weight_decay, run.log_steps, run.beam_size) == (3, 0.2, 7, 5)
    assert (train.task, train.steps, train.epoch, train.name) == ("ret%ta", None, 2, "clips") and (val.name, val.batch_size) == ("own", 64)
    assert load_config(["--config", "middle.json", "--test_batch_size", "4"]).data_cfg.val[0].batch_size == 4


def test_a_variant_without_sections_is_no_config_of_the_released_valor(shop):
    shop.write("base.json", BASE)
    shop.write("top.json", {"about": "x", "base": "base.json", "data_cfg": {"val": [{**DATASET, "type": "valor", "ids_path": "i.json"}]}})
    assert load_config(["--config", "top.json"]).data_cfg.val[0].ids_path == "i.json"


def test_what_a_base_sets_counts_as_the_configs_own(shop):
    """It stands before what is inherited from the pretrained run."""
    shop.write("run/log/hps.json", {"model_cfg": {"contra_dim": 8, "audio_melbins": 9}})
    shop.write("d.json", {"audio_melbins": 1, "contra_dim": 1})
    shop.write("base.json", {**BASE, "model_cfg": {"default": "d.json", "contra_dim": 7, "inherit_keys": ["contra_dim", "audio_melbins"]}})
    shop.write("top.json", {"base": "base.json", "run_cfg": {"pretrain_dir": "run"}})
    model = load_config(["--config", "top.json"]).model_cfg
    assert (model.contra_dim, model.audio_melbins) == (7, 9)


@pytest.mark.parametrize("content, message", [
    ({"base": "lost.json"}, "the base file lost.json does not exist (looked for lost.json, from "),
    ({"base": 3}, "c.json: base: expected the path of a JSON file, got 3 (int)"),
    ({"base": "a.json"}, "the base files form a cycle: c.json -> a.json -> c.json"),
    ({"base": "b.json", "data_cfg": {"train": {"tsak": "x"}}}, "c.json: unknown key 'tsak' in data_cfg.train. Did you mean 'task'?"),
    ({"data_cfg": {"train": {"task": "x"}}}, "c.json: data_cfg.train: expected a list of datasets"),
    ({"bas": "b.json"}, "Did you mean 'base'?"),
    ({"base": "b.json", "about": {"table": 8}}, "c.json: about: expected a text for people to read, or a list of texts, got {"),
])
def test_a_base_that_cannot_be_used(shop, content, message):
    shop.write("a.json", {"base": "c.json"})
    shop.write("b.json", BASE)
    shop.write("c.json", content)
    with pytest.raises(ConfigError) as error:
        load_config(["--config", "c.json"])
    assert message in str(error.value), str(error.value)


def test_cycle_of_defaults_names_the_chain(shop):
    shop.write("a.json", {"default": "b.json"})
    shop.write("b.json", {"default": "a.json"})
    fails(shop, "model_cfg: its default files form a cycle: c.json -> a.json -> b.json -> a.json", model={"default": "a.json"})


def test_default_that_is_a_whole_config(shop):
    fails(shop, "may hold only keys of that section, not 'run_cfg'", run={"default": "c.json"})
    fails(shop, "run_cfg.default: expected the path of a JSON file, got 3 (int)", run={"default": 3})


@pytest.mark.parametrize("text, message", [
    ('{"run_cfg": {\n  "seed": 1,\n}}', "c.json: not JSON: line 3, column 1: "),
    ('{"run_cfg": {"seed": 1} // comment\n}', "c.json: not JSON: line 1, column 25: "),
    ("[1]", "c.json: expected a JSON object, got [1] (list)"),
    ('{"run_cfg": {"seed": 1, "seed": 2}}', "c.json: not JSON: key 'seed' occurs twice"),
    ('{"run_cfg": {"learning_rate": NaN}}', "NaN is not a JSON number"),
    ('{"run_cfg": 3}', "c.json: run_cfg: expected an object of keys and values, got 3 (int)"),
    ('{"run_cgf": {}}', "c.json: unknown section 'run_cgf'; a config has run_cfg, model_cfg and data_cfg. Did you mean 'run_cfg'?"),
    ('{"seed": 3}', "It belongs in run_cfg."),
    ('{"data_cfg": {"trian": []}}', "unknown key 'data_cfg.trian'"),
    ('{"data_cfg": {"train": {"name": "x"}}}', 'data_cfg.train: expected a list of datasets, got {"name": "x"} (dict)'),
    ('{"data_cfg": {"train": ["x"]}}', "data_cfg.train[0]: expected an object of keys and values, got 'x' (str)"),
    ('{"data_cfg": {"train": [{"default": "x"}]}}', "a dataset has no default file"),
    ("[" * 100_000, "nested too deeply"),
])
def test_files_that_are_no_config(shop, text, message):
    shop.write("c.json", text)
    with pytest.raises(ConfigError) as error:
        load_config(["--config", "c.json"])
    assert message in str(error.value)


def test_absent_config_folder_or_binary(shop):
    absent = f"none.json: no such file (looked up from {shop.folder}) (named by --config)"
    for name, message in (("none.json", absent), (".", "it is a folder")):
        with pytest.raises(ConfigError) as error:
            load_config(["--config", name])
        assert message in str(error.value)
    (shop.folder / "b.json").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ConfigError, match="b.json: not JSON: it is not UTF-8"):
        load_config(["--config", "b.json"])


def test_own_configs_are_found_from_anywhere(shop):
    config = load_config(["--config", "config/debug/tiny.json"])
    assert config.run_cfg.output_dir == "output/debug" and load_config("debug/tiny.json") == config
    # Its default files, which are written as seen from the checkout, are found too; and what lies in the working directory comes first.
    name = "vast/finetune_cfg/retrieval-msrvtt.json"
    assert load_config(["--config", name]).model_cfg.vision_encoder_type == "evaclip01_giant"
    shop.write("config/vast/default_run_cfg.json", {"seed": 77})
    assert load_config(["--config", name]).run_cfg.seed == 77
    shop.write("debug/tiny.json", BASE)
    assert load_config("debug/tiny.json").data_cfg.val[0].name == BASE["data_cfg"]["val"][0]["name"]


@pytest.mark.parametrize("name, message", [
    ("debug/tinny.json", "(named by --config), nor one of OmniVAST's own configs. Did you mean 'config/debug/tiny.json'?"),
    ("config/omnistamps/quick/pretrian.json", "Did you mean 'config/omnistamps/quick/pretrain.json'?"),
    ("../pyproject.json", "../pyproject.json: no such file (looked up from "),
    ("debug", "debug: no such file (looked up from "),
])
def test_a_config_that_is_nowhere_gets_the_nearest_of_ours(shop, name, message):
    with pytest.raises(ConfigError) as error:
        load_config(["--config", name])
    assert message in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_configs_as_editors_and_powershell_write_them(shop, encoding):
    shop.load()
    text = (shop.folder / "c.json").read_text()
    (shop.folder / "c.json").write_bytes(text.replace("clips", "clips_ü").encode(encoding))
    assert load_config(["--config", "c.json"]).data_cfg.val[0].name == "clips_ü"


def test_other_encodings_and_empty_files_are_told_in_words(shop):
    (shop.folder / "c.json").write_bytes('{\n"name": "Ü"}'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"it is not UTF-8 \(byte 0xdc in line 2\); save it as UTF-8"):
        load_config(["--config", "c.json"])
    (shop.folder / "c.json").write_bytes(b"\x1f\x8b\x08\0")
    with pytest.raises(ConfigError, match="it is no text, but a packed or binary file"):
        load_config(["--config", "c.json"])
    shop.write("c.json", " \n")
    with pytest.raises(ConfigError, match="c.json: the file is empty"):
        load_config(["--config", "c.json"])


@pytest.mark.parametrize("keys, message", [
    ({"run": {"lerning_rate": 1e-3}}, "c.json: unknown key 'lerning_rate' in run_cfg. Did you mean 'learning_rate'?"),
    ({"run": {"lr": 1e-3}}, "c.json: unknown key 'lr' in run_cfg. Did you mean 'learning_rate'?"),
    ({"run": {"workers": 1}}, "unknown key 'workers' in run_cfg. Did you mean 'n_workers'? It belongs in a dataset of data_cfg.train"),
    ({"train": {"lr": 1e-3}}, "unknown key 'lr' in data_cfg.train[0]. Did you mean 'learning_rate'? It belongs in run_cfg."),
    ({"run": {"qqqq": 1}}, "unknown key 'qqqq' in run_cfg. python run.py --help, or omnivast train --help, lists all of them."),
    ({"model": {"contra_dims": 1}}, "c.json: unknown key 'contra_dims' in model_cfg. Did you mean 'contra_dim'?"),
    ({"train": {"batchsize": 1}}, "c.json: unknown key 'batchsize' in data_cfg.train[0]. Did you mean 'batch_size'?"),
    ({"run": {"contra_dim": 4}}, "unknown key 'contra_dim' in run_cfg. It belongs in model_cfg."),
    ({"model": {"batch_size": 4}}, "It belongs in a dataset of data_cfg.train or data_cfg.val."),
    ({"run": {"seed": "abc"}}, "c.json: run_cfg.seed: expected int, got 'abc' (str)"),
    ({"run": {"seed": True}}, "run_cfg.seed: expected int, got true (bool)"),
    ({"run": {"seed": 1.0}}, "run_cfg.seed: expected int, got 1.0 (float)"),
    ({"run": {"seed": None}}, "run_cfg.seed: expected int, got null"),
    ({"run": {"resume": 1}}, "run_cfg.resume: expected true or false, got 1 (int)"),
    ({"run": {"resume": "true"}}, "run_cfg.resume: expected true or false, got 'true' (str)"),
    ({"run": {"learning_rate": "1e-4"}}, "run_cfg.learning_rate: expected float, got '1e-4' (str)"),
    ({"run": {"clip_lr": "x"}}, "run_cfg.clip_lr: expected float or null, got 'x' (str)"),
    ({"run": {"betas": 0.9}}, "run_cfg.betas: expected list of float, got 0.9 (float)"),
    ({"run": {"betas": [0.9, "x"]}}, "run_cfg.betas[1]: expected float, got 'x' (str)"),
    ({"run": {"mode": "trainng"}}, "run_cfg.mode: expected one of training, testing, got 'trainng' (str). Did you mean 'training'?"),
    ({"run": {"mode": ["training"]}}, "run_cfg.mode: expected one of training, testing, got [\"training\"] (list)"),
    ({"run": {"learning_rate": -1}}, "run_cfg.learning_rate: expected float of at least 0, got -1"),
    ({"run": {"warmup_ratio": 1.5}}, "run_cfg.warmup_ratio: expected float of at most 1, got 1.5"),
    ({"run": {"learning_rate": 10**400}}, "a number too large"),
    ({"model": {"text_encoder_cfg": [1]}}, "model_cfg.text_encoder_cfg: expected dict, got [1] (list)"),
    ({"val": {"vision_format": "video_rawvideos"}}, "data_cfg.val[0].vision_format: expected one of video_rawvideo, video_frame, "
                                                    "image_rawimage, video, got 'video_rawvideos' (str). Did you mean 'video_rawvideo'?"),
    ({"train": {"batch_size": 0}}, "data_cfg.train[0].batch_size: expected int of at least 1, got 0"),
])
def test_keys_and_types(shop, keys, message):
    fails(shop, message, **keys)


def test_a_wrong_key_in_a_default_file_names_that_file(shop):
    shop.write("d.json", {"sed": 1})
    fails(shop, "d.json: unknown key 'sed' in run_cfg. Did you mean 'seed'?", run={"default": "d.json"})


def test_released_spellings_of_not_set(shop):
    run = shop.load(run={"checkpoint": "", "pretrain_dir": "", "output_dir": "none", "num_train_steps": 0, "new_lr": 0, "grad_norm": 5,
                         "learning_rate": 1}).run_cfg
    assert (run.checkpoint, run.pretrain_dir, run.output_dir, run.num_train_steps) == (None, None, "output/run", None)
    assert type(run.grad_norm) is float and type(run.learning_rate) is float
    assert shop.load(train={"steps": None, "epoch": 3, "training": True}).data_cfg.train[0].epoch == 3.0


def test_obsolete_keys_say_what_replaces_them(shop, caplog):
    with caplog.at_level(logging.WARNING, logger="omnivast"):
        shop.load("--amp", "apex", run={"use_ddp": False, "num_nodes": 2, "vision_resolution": 224}, train={"datatype": "video"})
    assert sorted(caplog.messages) == sorted([
        "--amp has no effect: precision decides",
        "c.json: run_cfg.use_ddp has no effect: the number of processes decides",
        "c.json: run_cfg.num_nodes has no effect: the launcher's environment (torchrun) decides",
        "c.json: run_cfg.vision_resolution has no effect: model_cfg.vision_resolution decides",
        "c.json: data_cfg.train[0].datatype has no effect: vision_format says what the vision folder holds"])


def test_settings_of_testing_are_accepted_where_older_configs_have_them(shop, caplog):
    assert shop.load(model={"beam_size": 5, "itm_rerank_num": 7}).run_cfg.beam_size == 5
    assert shop.load("--model_cfg.beam_size", "6", model={"beam_size": 5}).run_cfg.beam_size == 6
    assert shop.load("--run_cfg.beam_size", "6").run_cfg.beam_size == shop.load("--beam_size", "6").run_cfg.beam_size == 6
    assert not caplog.messages
    # The stronger place holds, whichever section it writes it in; where both are as strong they must agree.
    shop.write("d.json", {"beam_size": 2})
    assert shop.load(run={"default": "d.json"}, model={"beam_size": 5}).run_cfg.beam_size == 5
    assert shop.load(run={"beam_size": 5}, model={"default": "d.json"}).run_cfg.beam_size == 5
    assert shop.load(run={"beam_size": 5}, model={"beam_size": 5}).run_cfg.beam_size == 5
    with pytest.raises(ConfigError, match=r"c.json: model_cfg.beam_size is 4 \(int\), but run_cfg.beam_size is 5 .*the older spelling"):
        shop.load(run={"beam_size": 5}, model={"beam_size": 4})
    with pytest.raises(ConfigError, match="model_cfg.beam_size: expected int of at least 1"):
        shop.load(model={"beam_size": 0})


class TestInherit:
    KEYS = {"inherit_keys": ["contra_dim", "vision_encoder_type", "text_encoder_cfg", "max_caption_len"]}
    THEIRS = {"contra_dim": 33, "video_encoder_type": "evaclip02_base", "text_encoder_cfg": {"hidden_size": 8, "x": 1}, "beam_size": 9}

    def prepare(self, shop, content=None):
        shop.write("pre/log/hps.json", content or {"run_cfg": {}, "model_cfg": self.THEIRS, "local_rank": 0})
        shop.write("d.json", {**self.KEYS, "contra_dim": 11})

    def test_inherited_keys_win_over_default_files_only(self, shop):
        self.prepare(shop)
        config = shop.load("--pretrain_dir", "pre", model={"default": "d.json"})
        model = config.model_cfg
        assert (model.contra_dim, model.vision_encoder_type, model.max_caption_len) == (33, "evaclip02_base", 40)
        assert config.run_cfg.beam_size == 3
        assert shop.load("--pretrain_dir", "pre", model={"default": "d.json", "contra_dim": 22}).model_cfg.contra_dim == 22
        assert shop.load("--pretrain_dir", "pre", "--contra_dim", "44", model={"default": "d.json"}).model_cfg.contra_dim == 44
        assert shop.load(model={"default": "d.json"}).model_cfg.contra_dim == 11

    def test_what_has_moved_is_inherited_from_runs_old_and_new(self, shop):
        keys = {"inherit_keys": ["beam_size"]}
        self.prepare(shop)
        assert shop.load("--pretrain_dir", "pre", model=keys).run_cfg.beam_size == 9
        assert shop.load("--pretrain_dir", "pre", model=keys, run={"beam_size": 4}).run_cfg.beam_size == 4
        self.prepare(shop, {"run_cfg": {"beam_size": 7}, "model_cfg": {}})
        assert shop.load("--pretrain_dir", "pre", model=keys).run_cfg.beam_size == 7

    def test_a_dotted_flag_edits_the_inherited_dict(self, shop):
        self.prepare(shop)
        model = shop.load("--model_cfg.text_encoder_cfg.hidden_size", "16", "--pretrain_dir", "pre", model=self.KEYS).model_cfg
        assert model.text_encoder_cfg == {"hidden_size": 16, "x": 1}

    def test_errors(self, shop):
        fails(shop, f"log/hps.json: no such file (looked up from {shop.folder}); model_cfg.inherit_keys are read from it, because "
              "pretrain_dir is set (--pretrain_dir)",
              "--pretrain_dir", "pre", model=self.KEYS)
        fails(shop, "c.json: model_cfg.inherit_keys: unknown key 'contra_dimm'. Did you mean 'contra_dim'?",
              model={"inherit_keys": ["contra_dimm"]})
        self.prepare(shop, {"model_cfg": {"contra_dim": "x"}})
        fails(shop, "pre/log/hps.json: model_cfg.contra_dim: expected int, got 'x' (str)", "--pretrain_dir", "pre", model=self.KEYS)
        self.prepare(shop, {"run_cfg": {}})
        fails(shop, "hps.json: has no model_cfg", "--pretrain_dir", "pre", model=self.KEYS)

    def test_nothing_is_read_without_inherit_keys(self, shop):
        assert shop.load("--pretrain_dir", "absent").run_cfg.pretrain_dir == "absent"


def test_of_excluding_settings_the_stronger_place_holds(shop):
    shop.write("d.json", {"fp16": True})
    run = shop.load(run={"default": "d.json", "bf16": True}).run_cfg
    assert run.precision == "bf16"
    assert shop.load("--device", "cpu", run={"default": "d.json"}).run_cfg.precision == "float32"
    dataset = shop.load("--train_epoch", "2.5").data_cfg.train[0]
    assert (dataset.epoch, dataset.steps) == (2.5, None)


@pytest.mark.parametrize("default, own, flags, wanted", [
    ({}, {}, [], "auto"),
    ({"bf16": True}, {}, [], "bf16"), ({"fp16": True, "bf16": False}, {}, [], "fp16"), ({"fp16": False, "bf16": False}, {}, [], "float32"),
    ({"fp16": True}, {"fp16": False}, [], "float32"), ({"fp16": True}, {"precision": "auto"}, [], "auto"),
    ({"fp16": True}, {}, ["--precision", "bf16"], "bf16"), ({"fp16": True}, {}, ["--bf16", "false"], "fp16"),
    ({"fp16": True}, {}, ["--fp16", "false"], "float32"), ({"precision": "auto"}, {"bf16": True}, [], "bf16"),
    ({"precision": "auto"}, {}, ["--bf16"], "bf16"), ({"precision": "auto"}, {}, ["--bf16", "false"], "float32"),
    ({"precision": "auto", "bf16": False}, {}, [], "auto"), ({"precision": "auto", "bf16": True}, {}, [], "bf16"),
    ({"precision": "bf16"}, {}, ["--fp16", "false"], "bf16"), ({"precision": "bf16"}, {}, ["--bf16", "false"], "float32"),
    ({"precision": "bf16"}, {"fp16": True}, [], "fp16")])
def test_older_names_of_the_precision_keep_their_meaning(shop, default, own, flags, wanted):
    shop.write("d.json", default)
    run = shop.load(*flags, run={"default": "d.json", **own}).run_cfg
    assert (run.precision, run.bf16, run.fp16) == (wanted, None, None)


def test_configs_from_before_the_precision_compare_with_those_after(shop):
    """A run whose checkpoint says bf16 can be continued by a config that says precision: bf16, and by no other."""
    for flags, older in ((["--precision", "bf16"], {"fp16": False, "bf16": True}), (["--precision", "fp16"], {"fp16": True, "bf16": False}),
                         (["--precision", "float32"], {"fp16": False, "bf16": False})):
        config = shop.load(*flags)
        before = resolved(config)
        del before["run_cfg"]["precision"]
        before["run_cfg"] |= older
        assert config_hash(before) == config_hash(config) and not diff(before, config)
        assert precision_of(before["run_cfg"]) == flags[1]
    other = shop.load("--precision", "bf16")
    assert config_hash(before) != config_hash(other) and diff(before, other) == ['run_cfg.precision: "float32", now "bf16"']
    assert precision_of({}) == "auto"


def test_sample_nums_for_the_embeddings_follow_the_training_corpora(shop):
    assert shop.load("--test_vision_sample_num", "9", "--train_vision_sample_num", "4").model_cfg.max_vision_sample_num == 4
    assert shop.load("--max_vision_sample_num", "7").model_cfg.max_vision_sample_num == 7
    testing = shop.load("--mode", "testing", "--checkpoint", "x.pt", "--data_cfg.train", "[]", "--test_vision_sample_num", "9")
    assert testing.model_cfg.max_vision_sample_num == 9


def test_resolved_is_json_in_the_released_structure_and_loads_to_the_same_config(shop, caplog):
    config = shop.load("--betas", "0.8", "0.9", model={"text_encoder_cfg": {"hidden_size": 8}})
    plain = json.loads(json.dumps(resolved(config)))
    assert list(plain) == ["run_cfg", "model_cfg", "data_cfg"] and isinstance(plain["data_cfg"]["train"], list)
    shop.write("log/hps.json", plain)
    assert load_config(["--config", "log/hps.json"]) == config
    assert not caplog.messages


def test_hash_counts_what_decides_the_training(shop):
    base = shop.load()
    same = shop.load("--output_dir", "elsewhere", "--resume", "--log_steps", "5", "--beam_size", "1", "--n_workers", "0",
                     "--test_batch_size", "3", "--checkpointing", "--cache_dir", "x")
    assert config_hash(base) == config_hash(same) == config_hash(resolved(base)) and diff(base, same) == []
    other = shop.load("--seed", "1", "--train_batch_size", "8", "--text_encoder_cfg.hidden_size", "32")
    assert config_hash(other) != config_hash(base)
    assert diff(resolved(base), other) == ["run_cfg.seed: 50, now 1", "data_cfg.train[0].batch_size: 64, now 8",
                                           "model_cfg.text_encoder_cfg.hidden_size: absent, now 32"]
    older = resolved(base)
    del older["run_cfg"]["gather_with_grad"]
    assert config_hash(older) == config_hash(base)


def test_some_settings_decide_only_beside_others(shop):
    base = shop.load()
    assert config_hash(shop.load("--scst_candidates", "9")) == config_hash(base)  # nothing is self-critical here
    critical = shop.load("--scst_finetuning", "true", "--train_task", "cap%tv", "--checkpoint", "x.pt")
    other = shop.load("--scst_finetuning", "true", "--train_task", "cap%tv", "--checkpoint", "x.pt", "--scst_candidates", "9")
    assert diff(critical, other) == ["run_cfg.scst_candidates: 5, now 9"]
    longer = shop.load("--num_train_steps", "7", "--train_steps", "5")
    assert config_hash(longer) != config_hash(base) and same_but_for_length(base, longer)
    assert not same_but_for_length(base, shop.load("--seed", "1"))


def test_metadata_name_existing_keys():
    sections = [{f.name: f for f in dataclasses.fields(c)} for c in (RunConfig, ModelConfig, DatasetConfig)]
    for section in sections:
        for field in section.values():
            decides = field.metadata.get("decides", True)
            assert isinstance(decides, bool) or decides[0] in section, field.name
            assert not (field.metadata.get("passive") and decides), field.name
    assert not sections[0].keys() & sections[1].keys(), "a flag must mean one key"


@pytest.mark.parametrize("path", sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "config").rglob("*.json")))
def test_every_json_in_config_loads(path, monkeypatch, shop):
    monkeypatch.chdir(ROOT)
    content = json.loads(Path(path).read_text())
    if "data_cfg" in content or "base" in content:
        flags = ["--mode", "testing", "--checkpoint", "x.pt"] if not content.get("data_cfg", {"train": "base"}).get("train") else []
        if content.get("run_cfg", {}).get("scst_finetuning"):
            flags = ["--checkpoint", "x.pt"]
        if "/avllm/" in path:  # The language model is whatever folder is there; the first stages are not tested.
            flags += ["--llm", str(shop.folder)]
        data = load_config(["--config", path, *flags]).data_cfg
        assert data.val or (data.train and "/avllm/" in path)
        return
    section = "run_cfg" if "run" in Path(path).stem else "model_cfg"
    shop.write("c.json", {**BASE, section: {"default": path}})
    llm = ["--llm", str(shop.folder)] if content.get("model_type") == "avllm" else []
    config = load_config(["--config", str(shop.folder / "c.json"), *llm])
    chain = {k: v for k, v in content.items() if k != "default" and not (llm and k == "llm")}
    moved = moved_keys(section)
    whole = resolved(config)
    assert {k: whole[moved.get(k, section)][k] for k in chain} == chain


def test_debug_config_takes_ten_steps_of_every_objective(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(["--config", "config/debug/tiny.json", "--output_dir", "output/debug"])
    assert sum(d.steps for d in config.data_cfg.train) == 10
    assert {part[:3].rstrip("%") for d in config.data_cfg.train for part in d.task.split("_")} == {"ret", "cap", "qa"}
    assert config.model_cfg.audio_target_length % 16 == 0 and not config.model_cfg.pretrained


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6)


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(section=st.sampled_from(["run_cfg", "model_cfg", "train", "data_cfg"]), data=st.data())
def test_any_value_loads_or_is_a_config_error(shop, section, data):
    kind = {"run_cfg": RunConfig, "model_cfg": ModelConfig}.get(section, DatasetConfig)
    key = data.draw(st.sampled_from([f.name for f in dataclasses.fields(kind)] + ["default"]) | st.text(max_size=10))
    content = copy.deepcopy(BASE)
    place = content["data_cfg"]["train"][0] if section == "train" else content[section]
    place[key] = data.draw(JSON)
    shop.write("c.json", content)
    try:
        assert json.dumps(resolved(load_config(["--config", "c.json"])))
    except ConfigError as error:
        assert str(error).strip()


def test_runs_of_november_2026_can_still_be_resumed():
    """The hash that their checkpoints hold; settings added since count only where they are not as before."""
    before = Config(RunConfig(precision="float32"), ModelConfig(), DataConfig((DatasetConfig(name="a", task="ret%tv"),), ()))
    assert config_hash(before) == "af82bef73192e80aa7a9b83f59f06327044aebf040d10bf0ea17b8a0ce662e5f"
    sigmoid = dataclasses.replace(before, model_cfg=ModelConfig(contrastive_loss="sigmoid"))
    assert config_hash(sigmoid) != config_hash(before) and diff(before, sigmoid) == ['model_cfg.contrastive_loss: absent, now "sigmoid"']


def test_settings_say_themselves_what_depends_on_them():
    assert keys_without_say("model_cfg") == {"pretrained", "checkpointing", "inherit_keys", "frozen_vision", "frozen_audio",
                                             "label_smoothing", "contrastive_loss", "itm_ratio", "full_masker", "temperature_per_group",
                                             "fused_teaches", "matryoshka_dims", "clip_pairs", "llm_lora_dropout", "rejected_weight",
                                             "others_weight", "text_branch_dropped"}
    assert keys_without_say("data_cfg") == {"training", "epoch", "steps", "whole_batches", "batch_size", "n_workers", "annfile",
                                            "cache_dir", "hard_negatives"}
    assert passive_keys("run_cfg") >= {"output_dir", "resume", "num_threads"} and not passive_keys("run_cfg") & {"seed", "beam_size"}
    assert passive_keys("data_cfg") == {"n_workers", "cache_dir"}


def test_a_valor_config_names_groups_as_its_release(shop, caplog):
    config = shop.load("--data_cfg.train.0.task", "ret%tva%va%atv_cap%tva", model={"model_type": "valor"}, val={"task": "ret%tva"})
    assert config.data_cfg.train[0].task == "ret%tva%v-a%a-tv_cap%tva" and config.data_cfg.val[0].task == "ret%tva"
    assert "the groups of task 'ret%tva%va%atv_cap%tva' are those of VALOR's release: ret%tva%v-a%a-tv_cap%tva" in caplog.text
    assert shop.load(train={"task": "ret%tvas%va"}).data_cfg.train[0].task == "ret%tvas%va"


def test_label_smoothing_has_a_default_of_each_family(shop):
    for family, own, wanted in (("vast", None, 0.1), ("gram", None, 0.1), ("valor", None, 0.0), ("valor", 0.2, 0.2), ("vast", 0.0, 0.0)):
        model = {"model_type": family, **({} if own is None else {"label_smoothing": own})}
        config = shop.load(model=model, train={"task": "ret%tva"}, val={"task": "ret%tva"})
        assert config.model_cfg.label_smoothing == wanted
