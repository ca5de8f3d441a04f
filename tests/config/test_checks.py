"""Settings that contradict each other, and datasets that lack what their task needs."""

from __future__ import annotations

import pytest

from omnivast.config.load import ConfigError, config_hash, diff, load_config
from tests.config.conftest import BASE, DATASET


@pytest.mark.parametrize("keys, message", [
    ({"run": {"bf16": True, "fp16": True}}, "run_cfg.bf16 and run_cfg.fp16 are both true; choose one"),
    ({"run": {"bf16": True, "precision": "float32"}}, "run_cfg.precision is float32, but run_cfg.bf16 is true; choose one"),
    ({"run": {"fp16": True, "device": "cpu"}}, "run_cfg.precision fp16 needs a GPU but run_cfg.device is cpu"),
    ({"run": {"betas": [0.9]}}, "run_cfg.betas: expected two numbers"),
    ({"run": {"betas": [0.9, 1.0]}}, "run_cfg.betas: expected two numbers"),
    ({"run": {"grad_norm": 0}}, "run_cfg.grad_norm: expected a positive number, or null or -1"),
    ({"run": {"keep_last": 2, "remove_before_ckpt": False}}, "run_cfg.keep_last 2 removes older checkpoints, but run_cfg.remove_before"),
    ({"run": {"parallel": "deepspeed"}}, "run_cfg.parallel is deepspeed, but run_cfg.deepspeed_config, its JSON file, is not set"),
    ({"model": {"ret_features_dir": "c.json/features"}}, "run_cfg.ret_features_dir 'c.json/features' cannot be written: "),
    ({"run": {"parallel": "deepspeed", "deepspeed_config": "absent.json"}}, "run_cfg.deepspeed_config 'absent.json': no such file"),
    ({"run": {"parallel": "deepspeed", "fp16": True}}, "run_cfg.parallel deepspeed trains in bf16 or float32; for fp16 choose ddp or fsdp"),
    ({"run": {"simulate": "8xA100-80GB"}}, "run_cfg.simulate 8xA100-80GB asks a question, which run_cfg.dry_run true answers"),
    ({"run": {"dry_run": True, "simulate_constants": "a.json"}}, "run_cfg.simulate_constants is set, but run_cfg.simulate, whose"),
    ({"run": {"deepspeed_config": "zero.json"}}, "run_cfg.deepspeed_config is set, but run_cfg.parallel is ddp"),
    ({"run": {"new_lr": 1e-3}}, "run_cfg.new_params_name names no parameters"),
    ({"run": {"new_params_name": ["head"]}}, "run_cfg.new_params_name is set but run_cfg.new_lr is not"),
    ({"run": {"output_dir": " "}}, "run_cfg.output_dir is empty"),
    ({"run": {"resume": True, "mode": "testing", "pretrain_dir": "x"}}, "run_cfg.resume continues a training, but mode is testing"),
    ({"run": {"resume": True, "checkpoint": "x.pt"}}, "run_cfg.resume and run_cfg.checkpoint exclude each other"),
    ({"run": {"pretrain_dir": "output/a/", "output_dir": "./output/a"}}, "the pretrained run would be overwritten"),
    ({"run": {"mode": "testing"}}, "run_cfg.mode is testing but no weights are named; give --checkpoint FILE.pt or --pretrain_dir"),
    ({"run": {"judge": "https://x/v1"}}, "run_cfg.judge is an endpoint, but run_cfg.judge_model, the model that is asked for there, is "
                                         "not set"),
    ({"run": {"judge_model": "m"}}, "run_cfg.judge_model is set but run_cfg.judge is not"),
    ({"run": {"synonyms": "absent.json"}}, "run_cfg.synonyms 'absent.json': no such file"),
    ({"model": {"model_type": "avllm"}}, "model_cfg.model_type avllm needs model_cfg.llm, a folder of transformers or a .gguf file"),
    ({"model": {"model_type": "avllm", "llm": "absent"}}, "model_cfg.llm 'absent': no such folder or file"),
    ({"model": {"model_type": "avllm", "llm": ".", "llm_template": "plain"}, "train": {"task": "qa%tv"}},
     "model_cfg.llm_template plain leaves questions out, but dataset 'clips' has them; choose auto or vicuna_v1"),
    ({"model": {"text_encoder_type": "bert"}}, "set model_cfg.tokenizer to a vocab.txt"),
    ({"model": {"captioner_mode": True}}, "run_cfg.captioner_mode labels clips with a trained captioner; it needs --mode testing"),
    ({"model": {"captioner_mode": True}}, "data_cfg.val[0] 'clips': captioner_mode writes captions: expected a task such as cap%tv"),
    ({"model": {"captioner_mode": True}, "val": {"task": "cap%tva%tvas"}}, "would write one kind of caption twice"),
    ({"model": {"captioner_mode": True, "generate_by": "beam", "generate_nums": 4}}, "generate_by 'beam' finds beam_size 3 captions"),
    ({"run": {"scst_finetuning": True}}, "run_cfg.scst_finetuning trains captioning, but no task in data_cfg.train has 'cap'"),
    ({"run": {"scst_finetuning": True, "scst_baseline": "mean", "scst_candidates": 1}, "train": {"task": "cap%tv"}},
     "run_cfg.scst_baseline 'mean' compares the captions tried with each other"),
    ({"model": {"text_encoder_cfg": {"max_position_embeddings": 64}}}, "model_cfg.max_omni_caption_len is 70, but the text encoder "
                                                                       "has only 64 positions"),
    ({"model": {"max_caption_len": 505}, "train": {"task": "qa%tv"}}, "model_cfg.max_caption_len + max_answer_len"),
    ({"model": {"vision_encoder_type": None}, "val": {"task": "ret%ta"}},
     "data_cfg.train[0] 'clips': group 'tvas' of task 'ret%tvas' needs vision, but model_cfg.vision_encoder_type is null"),
    ({"model": {"audio_encoder_type": None}, "val": {"task": "ret%tv"}}, "needs audio, but model_cfg.audio_encoder_type is null"),
    ({"train": {"task": "ret%tvax"}}, "data_cfg.train[0] 'clips': task: task 'ret%tvax': group 'tvax' has unknown letter(s) x"),
    ({"train": {"task": "ret%"}}, "has an empty group"),
    ({"train": {"task": "ret%tva%v-a"}}, "group v-a is one of VALOR's (model_cfg.model_type valor), not of vast"),
    ({"model": {"model_type": "valor"}, "val": {"task": "ret%tva%vta"}},
     "data_cfg.val[0] 'clips': task 'ret%tva%v-ta': group v-ta is trained, never tested: retrieval searches clips by texts alone"),
    ({"train": {"task": ""}}, "task: the task is empty"),
    ({"val": {"task": "rett%tv"}}, "data_cfg.val[0] 'clips': task: unknown objective 'rett' in task 'rett%tv'; valid are ret "
                                   "(retrieval), cap (captioning), qa (answers), mlm (masked words, VALOR), chat (conversations). "
                                   "Did you mean 'ret'?"),
    ({"train": {"vision": None, "audio": "sounds"}}, "needs vision, but 'vision', the folder of videos or images, is not set"),
    ({"train": {"vision_sample_num": None}}, "needs vision, but 'vision_sample_num', the frames per clip, is not set"),
    ({"train": {"audio_sample_num": None}}, "needs audio, but 'audio_sample_num'"),
    ({"train": {"vision_format": "video_frame"}}, "needs audio, but 'audio', the folder of sound files, is not set, and video_frame has no "
                                                  "track"),
    ({"train": {"task": "ret%ta", "vision": None}}, "no videos are named whose own track could serve"),
    ({"train": {"vision_format": "image_rawimage", "vision_sample_num": 4, "task": "ret%tv"}}, "have one frame"),
    ({"train": {"epoch": 2}}, "epoch (2) and steps (5) are both set; keep one"),
    ({"train": {"steps": None}}, "neither epoch nor steps is set"),
    ({"train": {"steps": 0}}, "steps is 0; leave the dataset out"),
    ({"train": {"training": False}}, "data_cfg.train[0] 'clips': training is false, but it stands in data_cfg.train"),
    ({"val": {"training": True}}, "training is true, but it stands in data_cfg.val"),
    ({"train": {"cache_dir": "x", "vision_transforms": "crop_flip"}}, "cache_dir keeps frames as first read"),
    ({"train": {"batch_size": 1}}, "the contrastive loss of 'ret' compares clips of a batch: at least 2"),
    ({"train": {"txt": ""}}, "txt is missing"),
    ({"train": {"shards": ["a.tar"]}}, "shards and shuffle_shards need type srcindexed"),
    ({"train": {"shuffle_shards": 2}}, "shards and shuffle_shards need type srcindexed"),
    ({"train": {"type": "srcindexed", "vision": None}}, "type srcindexed reads tar shards, but 'shards' names none"),
    ({"train": {"type": "srcindexed", "shards": ["a"]}}, "vision is set, but type srcindexed finds all media in its shards"),
    ({"train": {"type": "srcindexed", "shards": ["a"], "vision": None, "audio": "x"}}, "audio is set, but type srcindexed"),
    ({"train": {"type": "srcindexed", "shards": ["a"], "vision": None, "vision_format": "video_frame"}}, "cannot be in shards"),
    ({"train": {"type": "srcindexed", "shards": ["a"], "vision": None, "video_decoder": "decord"}}, "shards need av"),
    ({"train": {"name": ""}}, "data_cfg.train[0]: name is missing"),
    ({"train": {"name": "a/b"}}, "because files are named after it, got 'a/b'"),
])
def test_contradictions(shop, keys, message):
    with pytest.raises(ConfigError) as error:
        shop.load(**keys)
    assert message in str(error.value), str(error.value)
    assert str(error.value).startswith("c.json: ")


def test_a_config_for_labelling(shop):
    run, val = {"mode": "testing", "checkpoint": "x.pt"}, {"task": "cap%tv%ta"}
    model = shop.load(run=run, val=val, model={"captioner_mode": True, "generate_nums": 5}).run_cfg
    assert model.generate_by == "sample" and model.generate_nums == 5
    assert shop.load("--generate_by", "beam", run=run, val=val, model={"captioner_mode": True}).run_cfg.generate_by == "beam"


def _load(shop, data, *flags, **run):
    shop.write("c.json", {"run_cfg": run, "data_cfg": data})
    return load_config(["--config", "c.json", *flags])


def test_lists_that_a_mode_needs(shop):
    with pytest.raises(ConfigError, match="mode is training but data_cfg.train lists no dataset"):
        _load(shop, {"val": [DATASET]})
    with pytest.raises(ConfigError, match="mode is testing but data_cfg.val lists no dataset"):
        _load(shop, {}, mode="testing", checkpoint="x.pt")
    with pytest.raises(ConfigError, match="save_best is true but data_cfg.val lists no dataset"):
        _load(shop, {"train": BASE["data_cfg"]["train"]}, save_best=True)
    assert not _load(shop, {"val": [DATASET]}, zero_shot=True).data_cfg.train
    assert not _load(shop, {"train": BASE["data_cfg"]["train"]}, first_eval=True).data_cfg.val


def test_equal_names_are_refused_within_a_list_only(shop):
    assert _load(shop, BASE["data_cfg"])
    with pytest.raises(ConfigError, match=r"data_cfg.val\[1\] 'clips': data_cfg.val\[0\] has the same name"):
        _load(shop, {**BASE["data_cfg"], "val": [DATASET, DATASET]})


def test_all_problems_are_listed_at_once(shop):
    with pytest.raises(ConfigError) as error:
        shop.load(run={"betas": [1]}, train={"steps": None, "task": "x"})
    assert str(error.value).startswith("c.json: 3 problems:\n- run_cfg.betas") and str(error.value).count("\n- ") == 3


def test_what_is_not_needed_may_be_absent(shop):
    subtitles = {"name": "said", "task": "ret%ts", "txt": "a.json", "steps": 1}
    assert _load(shop, {"train": [subtitles]}).data_cfg.train[0].vision is None
    sounds = {"name": "heard", "task": "cap%ta", "txt": "a.json", "steps": 1, "audio": "sounds", "audio_sample_num": 2}
    assert _load(shop, {"train": [sounds]}).model_cfg.max_audio_sample_num == 2
    images = {"name": "seen", "task": "ret%tv", "txt": "a.json", "steps": 1, "vision": "images", "vision_format": "image_rawimage"}
    assert _load(shop, {"train": [images]}).data_cfg.train[0].vision_sample_num == 1


def test_settings_of_self_critical_training_count_only_where_it_is_asked_for(shop):
    plain, changed = shop.load(), shop.load("--scst_candidates", "9")
    assert config_hash(plain) == config_hash(changed) and not diff(plain, changed)
    task = {"task": "cap%tv"}
    asked = [shop.load("--scst_finetuning", "true", "--scst_candidates", n, train=task) for n in ("5", "9")]
    assert len({config_hash(config) for config in (shop.load(train=task), *asked)}) == 3
    assert diff(*asked) == ["run_cfg.scst_candidates: 5, now 9"]
