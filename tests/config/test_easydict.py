"""Configs as an EasyDict, for scripts written against the release: its names, as attributes and as keys."""

import json
import sys

import pytest

from omnivast.config.extras import is_installed, not_installed
from omnivast.config.load import load_config, resolved

NAMES = {
    "run_cfg": [
        "checkpoint", "output_dir", "gradient_accumulation_steps", "clip_lr", "learning_rate", "optim", "betas", "weight_decay",
        "grad_norm", "warmup_ratio", "resume", "seed", "fp16", "bf16", "zero_shot", "scheduler", "new_lr", "new_params_name",
        "valid_freq", "dataset_mix_type", "remove_before_ckpt", "first_eval", "pretrain_dir", "num_train_steps", "save_best", "pin_mem",
        "use_ddp", "mode", "log_steps",
    ],
    "model_cfg": [
        "model_type", "itm_ratio", "frozen_vision", "frozen_audio", "checkpointing", "max_caption_len", "max_omni_caption_len",
        "max_subtitle_len", "contra_dim", "inherit_keys", "frame_embedding_type", "vision_resolution", "vision_encoder_type",
        "audio_encoder_type", "audio_melbins", "audio_target_length", "beam_size", "captioner_mode", "generate_nums",
        "ret_bidirection_evaluation", "itm_rerank_num",
    ],
    "dataset": [
        "type", "training", "name", "txt", "vision", "audio", "vision_format", "vision_transforms", "vision_sample_num",
        "audio_sample_num", "task", "epoch", "steps", "n_workers", "batch_size", "annfile",
    ],
}
"""What the release's configs have."""


@pytest.fixture
def easydict():
    if not is_installed("easydict"):
        pytest.skip(not_installed("easydict"))


def test_the_release_s_names(shop, easydict):
    shop.load()
    args = load_config(["--config", "c.json", "--learning_rate", "3e-5", "--precision", "bf16"], as_easydict=True)
    assert set(args) == {"run_cfg", "model_cfg", "data_cfg"}
    for section, keys in (("run_cfg", args.run_cfg), ("model_cfg", args.model_cfg), ("dataset", args.data_cfg.train[0])):
        assert set(NAMES[section]) <= set(keys)
    assert args.run_cfg.learning_rate == args["run_cfg"]["learning_rate"] == 3e-5
    assert (args.run_cfg.bf16, args.run_cfg.fp16, args.model_cfg.model_type) == (True, False, "vast")
    assert [dataset.task for dataset in args.data_cfg.train] == ["ret%tvas"] and args.data_cfg.train[0].steps == 5
    args.run_cfg.seed = 7  # such scripts also set what they like
    assert args["run_cfg"]["seed"] == 7


def test_automatic_precision_is_neither(shop, easydict):
    shop.load()
    run = load_config(["--config", "c.json"], as_easydict=True).run_cfg
    assert run.precision == "auto" and run.bf16 is run.fp16 is False


def test_hps_json_reads_as_the_config_that_wrote_it(shop, easydict):
    config = shop.load("--seed", "3")
    shop.write("log/hps.json", json.dumps(resolved(config)))
    assert load_config(["--config", "log/hps.json"]) == config
    args = load_config(["--config", "log/hps.json"], as_easydict=True)
    assert args.run_cfg.seed == 3 and args == load_config(["--config", "c.json", "--seed", "3"], as_easydict=True)


def test_without_easydict(shop, monkeypatch):
    shop.load()
    monkeypatch.setitem(sys.modules, "easydict", None)
    with pytest.raises(ImportError, match=r'easydict is not installed: pip install "omnivast\[easydict\]"'):
        load_config(["--config", "c.json"], as_easydict=True)
