"""Flags over config files, and the help."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnivast.config.fields import SECTIONS, section_keys
from omnivast.config.flags import LAUNCHER_FLAGS, SHORTHANDS, help_text
from omnivast.config.load import ConfigError, load_config
from omnivast.config.schema import DatasetConfig, ModelConfig, RunConfig
from omnivast.config.words import ALIASES
from tests.config.conftest import DATASET


@pytest.mark.parametrize("flags, section, key, value", [
    ("--learning_rate 2e-5", "run_cfg", "learning_rate", 2e-5),
    ("--learning_rate=3", "run_cfg", "learning_rate", 3.0),
    ("--run_cfg.seed 1", "run_cfg", "seed", 1),
    ("--seed 1 --run_cfg.seed 2", "run_cfg", "seed", 2),
    ("--checkpointing true", "model_cfg", "checkpointing", True),
    ("--checkpointing True", "model_cfg", "checkpointing", True),
    ("--frozen_vision", "model_cfg", "frozen_vision", True),
    ("--tensorboard false", "run_cfg", "tensorboard", False),
    ("--betas 0.8 0.99", "run_cfg", "betas", [0.8, 0.99]),
    ("--betas [0.8,0.99]", "run_cfg", "betas", [0.8, 0.99]),
    ("--allow_missing vision. contra_head", "run_cfg", "allow_missing", ["vision.", "contra_head"]),
    ("--allow_missing []", "run_cfg", "allow_missing", []),
    ("--grad_norm -1", "run_cfg", "grad_norm", -1.0),
    ("--grad_norm null", "run_cfg", "grad_norm", None),
    ("--mode training", "run_cfg", "mode", "training"),
    ("--frame_embedding_type none", "model_cfg", "frame_embedding_type", "none"),
    ("--model_cfg.contra_dim 256", "model_cfg", "contra_dim", 256),
    ("--tokenizer 123", "model_cfg", "tokenizer", "123"),
    ('--text_encoder_cfg {"hidden_size":128}', "model_cfg", "text_encoder_cfg", {"hidden_size": 128}),
    ("--model_cfg.text_encoder_cfg.hidden_size 128", "model_cfg", "text_encoder_cfg", {"hidden_size": 128}),
    ("--vision_encoder_cfg.stem conv --vision_encoder_cfg.mlp.ratio 2.5", "model_cfg", "vision_encoder_cfg",
     {"stem": "conv", "mlp": {"ratio": 2.5}}),
    ("--vision_encoder_cfg.dims 1 2 --vision_encoder_cfg.on true", "model_cfg", "vision_encoder_cfg", {"dims": [1, 2], "on": True}),
    ("--local-rank=3 --seed 5 --local_rank 3", "run_cfg", "seed", 5),
])
def test_flags_set_typed_keys(shop, flags, section, key, value):
    found = getattr(getattr(shop.load(*flags.split()), section), key)
    assert found == value and type(found) is type(value)


def test_dataset_shorthands_reach_every_dataset_of_their_list(shop):
    second = {**DATASET, "name": "more", "steps": 1}
    config = shop.load("--data_cfg.train", json.dumps([second, {**second, "name": "most"}]),
                       "--train_batch_size", "8", "--test_batch_size", "4", "--train_steps", "7", "--train_task", "ret%tv",
                       "--test_task", "cap%tva", "--train_vision_sample_num", "3", "--test_vision_sample_num", "5",
                       "--train_audio_sample_num", "2", "--test_audio_sample_num", "6", "--n_workers", "0",
                       "--vision_transforms", "crop_flip", "--data_cfg.train.1.batch_size", "16")
    train, val = config.data_cfg.train, config.data_cfg.val
    assert [(d.name, d.batch_size, d.steps, d.task, d.vision_sample_num, d.audio_sample_num) for d in train] == [
        ("more", 8, 7, "ret%tv", 3, 2), ("most", 16, 7, "ret%tv", 3, 2)]
    assert [(d.batch_size, d.task, d.vision_sample_num, d.audio_sample_num) for d in val] == [(4, "cap%tva", 5, 6)]
    assert {(d.n_workers, d.vision_transforms) for d in (*train, *val)} == {(0, "crop_flip")}


@pytest.mark.parametrize("flags, message", [
    ("--lerning_rate 1", "unknown flag --lerning_rate. Did you mean '--learning_rate'?"),
    ("--learning-rate 1", "Did you mean '--learning_rate'?"),
    ("--train_batchsize 1", "Did you mean '--train_batch_size'?"),
    ("--lr 1", "unknown flag --lr. Did you mean '--learning_rate'?"),
    ("--run_cfg.lr 1", "unknown flag --run_cfg.lr. Did you mean '--run_cfg.learning_rate'?"),
    ("--batch_size 4", "unknown flag --batch_size. Did you mean '--train_batch_size' or '--test_batch_size'?"),
    ("--model_cfg.bs 4", "Did you mean '--train_batch_size' or '--test_batch_size'?"),
    ("--val_batch_size 4", "Did you mean '--test_batch_size'?"),
    ("--epochs 3", "unknown flag --epochs. Did you mean '--train_epoch'?"),
    ("--steps 3", "unknown flag --steps. Did you mean '--train_steps'?"),
    ("--random_seed 3", "Did you mean '--seed'?"),
    ("--num-workers 3", "Did you mean '--n_workers'?"),
    ("--data_cfg.train.0.workers 3", "Did you mean '--data_cfg.train.0.n_workers'?"),
    ("--txt x.json", "Did you mean '--data_cfg.train.0.txt' or '--data_cfg.val.0.txt'?"),
    ("--eval", "unknown flag --eval. Did you mean '--mode testing'?"),
    ("--threads 2", "Did you mean '--num_threads'?"),
    ("--debug", "unknown flag --debug. python run.py --help, or omnivast train --help, lists all of them."),
    ("--gpus 2", "torchrun --nproc_per_node"),
    ("--run_cfg {}", "Its keys are flags of their own"),
    ("--data_cfg.test.0.steps 3", "those of val evaluated"),
    ("--train_task tvas", "--train_task: task 'tvas': 'tvas' is a group without its objective; write for example ret%tvas"),
    ("--train_epoch 0", "epoch is 0; leave the dataset out of the list instead"),
    ("--model_cfg.contra_dims 1", "Did you mean '--model_cfg.contra_dim'?"),
    ("--modl_cfg.contra_dim 1", "Did you mean '--model_cfg.contra_dim'?"),
    ("--model_cfg.contra_dim.x 1", "model_cfg.contra_dim is no dict"),
    ("--text_encoder_cfg..x 1", "a name between its dots is empty"),
    ("--data_cfg.train.0.batchsize 1", "Did you mean '--data_cfg.train.0.batch_size'?"),
    ("--data_cfg.tain.0.batch_size 1", "Datasets are set as --data_cfg.train.0.batch_size 8"),
    ("--data_cfg.train.1.batch_size 8", "--data_cfg.train.1.batch_size: data_cfg.train of c.json has 1 dataset(s), counted from 0"),
    ("--data_cfg.train abc", "--data_cfg.train: data_cfg.train: expected a list of datasets, got 'abc' (str)"),
    ('--data_cfg.val [{"nam":1}]', "--data_cfg.val: unknown key 'nam' in data_cfg.val[0]. Did you mean 'name'?"),
    ("--data_cfg.val [] --test_task ret%tv", "--test_task: c.json has no datasets in data_cfg.val"),
    ("--zzzzqqq", "python run.py --help, or omnivast train --help, lists all of them"),
    ("--learning_rate abc", "--learning_rate: expected float, got 'abc' (str)"),
    ("--learning_rate nan", "--learning_rate: expected a finite number, got nan"),
    ("--learning_rate 1 2", "--learning_rate: expected one value (float), got 2: 1 2"),
    ("--learning_rate", "--learning_rate: needs a value (float)"),
    ("--seed 1.5", "--seed: expected int, got '1.5' (str)"),
    ("--checkpointing yes", "--checkpointing: expected true or false, got 'yes' (str)"),
    ("--betas 0.9 x", "--betas[1]: expected float, got 'x' (str)"),
    ("--betas", "--betas: needs a value (list of float)"),
    ("--text_encoder_cfg abc", "--text_encoder_cfg: expected dict, got 'abc' (str)"),
    ("--text_encoder_cfg.x", "--text_encoder_cfg.x: needs a value"),
    ("--mode train", "--mode: expected one of training, testing, got 'train' (str). Did you mean 'training'?"),
    ("--train_batch_size 0", "--train_batch_size: expected int of at least 1, got 0"),
    ("--seed=1 2", "'2' belongs to no flag"),
    ("--config", "--config: expected the path of one JSON file, got nothing"),
])
def test_wrong_flags(shop, flags, message):
    with pytest.raises(ConfigError) as error:
        shop.load(*flags.split())
    assert message in str(error.value), str(error.value)


def test_config_is_required():
    for argv in ([], ["--seed", "1"]):
        with pytest.raises(ConfigError, match="--config is missing"):
            load_config(argv)
    with pytest.raises(ConfigError, match="'c.json' belongs to no flag"):
        load_config(["c.json"])


def test_help_lists_every_key_with_its_meaning_in_100_columns(capsys):
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as stop:
            load_config(["--config", "absent.json", flag])
        assert stop.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    squeezed = " ".join(text.split())
    for section, prefix in ((RunConfig, "--"), (ModelConfig, "--"), (DatasetConfig, "--data_cfg.train.N.")):
        for item in dataclasses.fields(section):
            assert f"{prefix}{item.name} " in squeezed
            assert item.metadata["help"] in squeezed
    assert all(f"--{flag} " in squeezed for flag in (*SHORTHANDS, *LAUNCHER_FLAGS))
    assert "--learning_rate float [default: 0.0001, at least 0]" in squeezed and "--mode {training,testing} [default: training]" in squeezed


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(words=st.lists(st.text(max_size=6) | st.sampled_from(help_text().split()), max_size=4))
def test_any_words_load_or_are_a_config_error(shop, words):
    try:
        shop.load(*words)
    except ConfigError as error:
        assert str(error).strip()
    except SystemExit as stop:
        assert stop.code == 0


def test_every_alias_names_a_key():
    keys = {key for section in (*SECTIONS, "data_cfg") for key in section_keys(section)}
    assert {meant.split()[0] for meanings in ALIASES.values() for meant in meanings} <= keys
    assert not keys & set(ALIASES), "an alias is a key: it would never be asked for"
