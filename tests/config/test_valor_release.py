"""The released VALOR's flat configs, its flags, and what a run takes from the one that it starts from."""

from __future__ import annotations

import copy
import json
import logging

import pytest

from omnivast.config.inherit import settings_of_run, trained_counts, trained_datasets
from omnivast.config.load import ConfigError, load_config, resolved
from omnivast.config.valor_release import UNREAD, is_flat
from tests.config.conftest import BASE

SETTINGS = {
    "output_dir": "", "video_resolution": 224, "audio_melbins": 64, "audio_patch_size": 16, "audio_mean": -4.2677393,
    "audio_std": 4.5689974, "audio_frame_shift": 10, "audio_target_length": 512, "gradient_accumulation_steps": 1, "learning_rate": 1e-4,
    "optim": "adamw", "betas": [0.9, 0.98], "weight_decay": 0.01, "grad_norm": 5.0, "warmup_ratio": 0.1, "seed": 50, "fp16": True,
    "pin_mem": True}
CLIPS = {"name": "msrvtt_ret", "ids_path": "./d/train_id.json", "txt": "./d/txt_mapper.json", "video": "./d/frames_fps4/",
         "audio": "./d/audio_22050hz/", "speech": "./d/speech.json", "video_transforms": "crop_flip", "datatype": "video"}
GROUP = {"datasets": [CLIPS], "video_sample_num": 4, "audio_sample_num": 2, "max_txt_len": 30, "task": "ret%tva%tv", "epoch": 70,
         "n_workers": 8, "batch_size": 64}
VAL = {**CLIPS, "ids_path": "./d/test_id.json", "video_sample_num": 8, "audio_sample_num": 2, "max_txt_len": 30, "task": "ret%tva%tv",
       "n_workers": 8, "batch_size": 64}
PRETRAINED = {"video_encoder_type": "videoswin_base_k600_22k", "txt_encoder_type": "bert_base_uncased",
              "multimodal_encoder_type": "bert_base_uncased", "audio_encoder_type": "ast", "use_task_prompt": True,
              "contra_loss_ratio": 1.5, "fineweight_type": "none", "clip_lr": 5e-7, "video_sample_num": 4,
              "audio_sample_num": 1, "valid_steps": 9, "local_rank": 0, **UNREAD}


class Release:
    """Configs in the release's form, of fine-tuning or as given."""

    def __init__(self, shop):
        self.shop = shop

    def load(self, *flags, train=(GROUP,), val=(VAL,), **settings):
        self.shop.write("ft.json", {**SETTINGS, **settings, "data_cfg": {"train": list(train), "val": list(val)}})
        return load_config(["--config", "ft.json", *flags])

    def fails(self, message, *flags, **keys):
        with pytest.raises(ConfigError) as error:
            self.load(*flags, **keys)
        assert message in str(error.value), str(error.value)

    def pretrained(self, **settings):
        content = {**SETTINGS, **PRETRAINED, **settings, "data_cfg": {"train": [GROUP], "val": []}}
        self.shop.write("VALOR/log/hps.json", content)


@pytest.fixture
def release(shop):
    return Release(shop)


def test_a_flat_config_by_our_names(release, caplog):
    with caplog.at_level(logging.WARNING, logger="omnivast"):
        config = release.load()
    train, val = config.data_cfg.train[0], config.data_cfg.val[0]
    assert (train.type, train.name, train.ids_path, train.txt) == ("valor", "msrvtt_ret", "./d/train_id.json", "./d/txt_mapper.json")
    assert (train.vision, train.audio, train.vision_format, train.vision_transforms) == ("./d/frames_fps4/", "./d/audio_22050hz/", "video",
                                                                                         "crop_flip")
    assert (train.vision_sample_num, train.audio_sample_num, train.epoch, train.batch_size) == (4, 2, 70.0, 64)
    assert train.whole_batches and not val.whole_batches and (val.ids_path, val.vision_sample_num) == ("./d/test_id.json", 8)
    model, run = config.model_cfg, config.run_cfg
    assert (model.model_type, model.vision_resolution, model.max_caption_len, model.max_answer_len) == (
        "valor", 224, 32, 7)
    assert (run.learning_rate, run.optim, run.grad_norm, run.seed, run.precision, run.output_dir) == (1e-4, "adamw", 5.0, 50, "fp16",
                                                                                                     "output/run")
    assert caplog.messages == ["ft.json: without effect, as in the released VALOR: speech"]
    release.shop.write("again.json", json.loads(json.dumps(resolved(config))))
    assert load_config("again.json") == config


def test_the_release_s_defaults_stand_behind_its_configs(shop):
    shop.write("ft.json", {"data_cfg": {"train": [GROUP]}})
    config = load_config("ft.json")
    run, model = config.run_cfg, config.model_cfg
    assert (run.optim, run.seed, run.grad_norm, run.precision, run.first_eval, run.beam_size_qa) == ("adam", 42, 5.0, "fp16", True, 1)
    assert (run.clip_lr, run.clip_lr_text) == (5e-7, 5e-7)
    assert (model.vision_encoder_type, model.txt_encoder_type, model.audio_encoder_type) == ("clip_vit_base_16", "clip_vit_base_16", "ast")
    assert (model.audio_target_length, model.label_smoothing, model.contra_loss_ratio) == (512, 0.0, 1.0)


def test_pretraining_several_groups_images_and_values_by_other_spellings(release):
    image = {"name": "cc3m", "ids_path": "c/id.json", "txt": "c/t.json", "video": "c/training", "datatype": "image"}
    images = {"datasets": [image], "max_txt_len": 40, "task": "pt_contra%tv_caption%tv_mlm%tv", "epoch": 16, "batch_size": 512}
    first = {**GROUP, "task": "pt_contra%tva%tv%ta%va_caption%tva%tv%ta", "max_txt_len": 40}
    config = release.load("--txt_encoder_type", "bert_base_uncased", train=[first, images], val=[], contra_loss_ratio=1.5,
                          multimodal_encoder_type="bert_base_uncased", audio_target_length=1024)
    train = config.data_cfg.train
    assert [dataset.task for dataset in train] == ["ret%tva%tv%ta%v-a_cap%tva%tv%ta", "ret%tv_cap%tv_mlm%tv"]
    assert (train[1].vision_format, train[1].vision_sample_num, train[1].audio_sample_num) == ("image_rawimage", 1, None)
    model = config.model_cfg
    assert (model.text_encoder_type, model.contra_loss_ratio, model.max_caption_len) == ("bert-base-uncased", 1.5, 42)
    assert model.audio_target_length == 512


def test_sound_alone(release):
    sound = {"name": "clotho", "ids_path": "c/id.json", "txt": "c/t.json", "audio": "c/a", "datatype": "audio", "annfile": "c/cap.json",
             "max_txt_len": 30, "task": "cap%ta", "batch_size": 4, "audio_sample_num": 6, "test_one": True}
    (dataset,) = release.load("--mode", "testing", "--checkpoint", "x.pt", train=[], val=[sound]).data_cfg.val
    assert (dataset.vision, dataset.audio, dataset.annfile, dataset.test_one) == (None, "c/a", "c/cap.json", True)


def test_datasets_of_a_group_are_one_corpus(release):
    other = {**CLIPS, "name": "more"}
    train = release.load(train=[{**GROUP, "datasets": [CLIPS, other]}]).data_cfg.train
    assert [(d.name, d.joined, d.batch_size, d.task) for d in train] == [
        ("msrvtt_ret", "msrvtt_ret_more", 64, "ret%tva%tv"), ("more", "msrvtt_ret_more", 64, "ret%tva%tv")]
    release.fails("batch_size is 8, but 'msrvtt_ret', which is joined with it as 'msrvtt_ret_more', has 64",
                  "--data_cfg.train.1.batch_size", "8", train=[{**GROUP, "datasets": [CLIPS, other]}])
    release.fails("only corpora of data_cfg.train are joined", "--data_cfg.val.0.joined", "x")
    release.fails("joined is 'more', which is the name of another dataset", "--data_cfg.train.0.joined", "more",
                  train=[GROUP, {**GROUP, "datasets": [other]}])


@pytest.mark.parametrize("keys, message", [
    ({"learning_rat": 1}, "ft.json: unknown key 'learning_rat' beside data_cfg; without run_cfg or model_cfg it is read as a config of the "
                          "released VALOR. Did you mean 'learning_rate'?"),
    ({"video_resolutio": 1}, "Did you mean 'video_resolution'?"),
    ({"video_resolution": "x"}, "ft.json: video_resolution: expected int, got 'x' (str)"),
    ({"frozen_multimodal": True}, "ft.json: frozen_multimodal: expected false (bool), the only value that OmniVAST has of it, got true"),
    ({"audio_mean": -4}, "ft.json: audio_mean: expected -4.2677393"),
    ({"train": [{**GROUP, "video_sample_nun": 3}]}, "data_cfg.train[0]: unknown key 'video_sample_nun' of a group"),
    ({"train": [{**GROUP, "ids_path": "x"}]}, "It belongs in a dataset of 'datasets'."),
    ({"train": [{**GROUP, "datasets": []}]}, "data_cfg.train[0].datasets: expected a list of one or more objects, got [] (list)"),
    ({"train": [{**GROUP, "datasets": [{**CLIPS, "viedo": "x"}]}]},
     "data_cfg.train[0].datasets[0]: unknown key 'viedo'. Did you mean 'video'?"),
    ({"train": [{**GROUP, "datasets": [{**CLIPS, "datatype": "film"}]}]},
     "datasets[0].datatype: expected one of video, image, audio, got 'film'"),
    ({"train": [{**GROUP, "epoch": "x"}]}, "data_cfg.train[0].epoch: expected float or null, got 'x' (str)"),
    ({"train": [{**GROUP, "max_txt_len": 40}]}, "max_txt_len differs (train[0] 40, val[0] 30)"),
    ({"val": [{k: v for k, v in VAL.items() if k != "max_txt_len"}]}, "data_cfg.val[0].max_txt_len: expected a whole number of at least 1"),
    ({"val": [{**VAL, "ids_path": ""}]}, "ids_path is missing: the JSON list of the clips' ids"),
    ({"val": [{**VAL, "task": "ret%tva%va"}]}, "group v-a is trained, never tested"),
    ({"val": [3]}, "data_cfg.val: expected a list of objects"),
])
def test_mistakes_are_named_as_the_file_has_them(release, keys, message):
    release.fails(message, **keys)


def test_what_is_flat(shop):
    for content in ({"data_cfg": {"val": [VAL]}}, {"data_cfg": {"train": [GROUP]}}, {"data_cfg": {}, "video_resolution": 3}):
        assert is_flat(content)
    for content in ({"seed": 3}, BASE, {"seed": 3, "data_cfg": {"train": BASE["data_cfg"]["train"]}},
                    {"run_cfg": {}, "data_cfg": {"val": [VAL]}}, {"data_cfg": 3}):
        assert not is_flat(content)
    shop.write("c.json", {"seed": 3, "data_cfg": {"train": BASE["data_cfg"]["train"]}})
    with pytest.raises(ConfigError, match="unknown section 'seed'"):
        load_config("c.json")


def test_a_config_without_its_last_brace(shop):
    text = json.dumps({**SETTINGS, "data_cfg": {"train": [GROUP], "val": []}}, indent=1)
    lines = len(text.splitlines())
    told = f"c.json: not JSON: line {lines - 1}: one closing brace is missing at the end; add a line with }}"
    for cut, message in ((text[:-1] + "   \n\n", told), (text[:-4], "not JSON: line ")):
        shop.write("c.json", cut)
        with pytest.raises(ConfigError) as error:
            load_config("c.json")
        assert message in str(error.value), str(error.value)
    assert "closing brace" not in str(error.value)


class TestFlags:
    def test_the_release_s_names(self, release):
        config = release.load("--train_video_sample_num", "6", "--test_video_sample_num", "12", "--train_audio_sample_num", "3",
                              "--test_audio_sample_num", "5", "--train_batch_size", "32", "--test_batch_size", "16", "--train_epoch", "5",
                              "--train_task", "ret%tva%va", "--test_task", "ret%ta", "--video_transforms", "none", "--train_id", "a.json",
                              "--test_id", "b.json", "--train_txt_mapper", "t.json", "--local-rank=3", "--video_resolution", "392",
                              "--video_encoder_type", "videoswin_base_k600_22k", "--txt_encoder_type", "bert_base_uncased",
                              "--dual_softmax", "true", "--evaluate_ret_text", "True", "--checkpoint", "x.pt", "--learning_rate", "2e-5",
                              "--audio_std", "4.5689974", "--frozen_multimodal", "false")
        train, val = config.data_cfg.train[0], config.data_cfg.val[0]
        assert (train.vision_sample_num, val.vision_sample_num, train.audio_sample_num, val.audio_sample_num) == (6, 12, 3, 5)
        assert (train.batch_size, val.batch_size, train.epoch, train.task, val.task) == (32, 16, 5.0, "ret%tva%v-a", "ret%ta")
        assert (train.vision_transforms, val.vision_transforms) == ("none", "none")
        assert (train.ids_path, val.ids_path, train.txt, val.txt) == ("a.json", "b.json", "t.json", "./d/txt_mapper.json")
        assert (config.model_cfg.vision_resolution, config.model_cfg.vision_encoder_type) == (392, "videoswin_base_k600_22k")
        assert config.run_cfg.dual_softmax_evaluation and config.run_cfg.ret_bidirection_evaluation
        assert (config.run_cfg.learning_rate, config.run_cfg.checkpoint) == (2e-5, "x.pt")

    def test_the_names_are_understood_with_our_configs_too(self, shop):
        config = shop.load("--train_video_sample_num", "6", "--video_transforms", "crop_flip", "--video_resolution", "96")
        assert (config.data_cfg.train[0].vision_sample_num, config.data_cfg.val[0].vision_transforms) == (6, "crop_flip")
        assert config.model_cfg.vision_resolution == 96

    def test_minus_one_and_nothing_leave_what_the_config_says(self, release, shop):
        said = ["--train_epoch", "-1", "--train_video_sample_num", "-1", "--test_batch_size", "-1", "--train_task", "", "--train_id", ""]
        assert release.load(*said) == release.load()
        assert shop.load("--n_workers", "-1").data_cfg.train[0].n_workers == -1

    def test_of_several_datasets_a_file_is_of_none(self, release):
        release.fails("--train_id: data_cfg.train of ft.json has 2 datasets, and it does not say of which; write "
                      "--data_cfg.train.0.ids_path", "--train_id", "x.json", train=[GROUP, {**GROUP, "datasets": [{**CLIPS, "name": "b"}]}])

    def test_those_without_effect_and_without_choice(self, release, shop, caplog):
        with caplog.at_level(logging.WARNING, logger="omnivast"):
            release.load("--dropout", "0.1", "--sample_topk", "9")
        assert caplog.messages[-1] == "--sample_topk has no effect, as in the released VALOR" and len(caplog.messages) == 2
        release.fails("--initial_vision: expected true (bool), the only value that OmniVAST has of it", "--initial_vision", "false")
        with pytest.raises(ConfigError, match="--audio_patch_size is a flag of the released VALOR, understood with its own configs alone"):
            shop.load("--audio_patch_size", "16")


class TestPretrained:
    def test_its_settings_stand_over_the_config_and_under_flags(self, release, caplog):
        release.pretrained(contra_type="coarse", late_fusion=True)
        with caplog.at_level(logging.WARNING, logger="omnivast"):
            config = release.load("--pretrain_dir", "VALOR", "--late_fusion", "false", contra_type="fine")
        model = config.model_cfg
        assert (model.contra_type, model.late_fusion, model.fineweight_type, model.use_task_prompt) == ("coarse", False, "none", True)
        assert (model.vision_encoder_type, model.txt_encoder_type, model.text_encoder_type) == (
            "videoswin_base_k600_22k", "bert_base_uncased", "bert-base-uncased")
        # Not inherited, as in the release.
        assert model.contra_loss_ratio == 1.0 and config.run_cfg.learning_rate == 1e-4
        assert caplog.messages[1:] == [
            "contra_type is 'coarse' (str), as the pretrained run has it (VALOR/log/hps.json), not 'fine' (str) (ft.json); --contra_type "
            "decides otherwise",
            "--late_fusion: late_fusion is false (bool), although the pretrained run has true (bool) (VALOR/log/hps.json); the released "
            "VALOR would take that of the run"]

    def test_our_own_run_is_inherited_from_too_and_the_release_s_by_our_configs(self, release, shop):
        run = {"run_cfg": {}, "model_cfg": {"contra_type": "coarse", "vision_encoder_cfg": {"width": 8}, "max_vision_sample_num": 6}}
        shop.write("ours/log/hps.json", run)
        model = release.load("--pretrain_dir", "ours").model_cfg
        assert (model.contra_type, model.vision_encoder_cfg) == ("coarse", {"width": 8})
        release.pretrained(contra_type="coarse")
        keys = {"model_type": "valor", "inherit_keys": ["contra_type", "text_encoder_type", "fineweight_type"], "fineweight_type": "mlp"}
        model = shop.load("--pretrain_dir", "VALOR", "--train_task", "ret%tv", "--test_task", "ret%tv", model=keys).model_cfg
        assert (model.contra_type, model.text_encoder_type, model.fineweight_type) == ("coarse", "bert-base-uncased", "mlp")

    def test_what_it_was_trained_with(self, release, shop):
        release.pretrained()
        shop.write("ours/log/hps.json", {"run_cfg": {}, "model_cfg": {"max_vision_sample_num": 6}})
        assert trained_counts("VALOR") == {"vision": 4, "audio": 1} and trained_counts("ours") == {"vision": 6}
        assert trained_counts("nowhere") == {}
        settings = settings_of_run(shop.folder / "VALOR")
        assert (settings["model_cfg"]["model_type"], settings["run_cfg"]["seed"], settings["data_cfg"]["val"]) == ("valor", 50, [])
        (dataset,) = trained_datasets(shop.folder / "VALOR")
        assert (dataset["task"], dataset["vision_sample_num"]) == ("ret%tva%tv", 4) and trained_datasets(shop.folder / "ours") == []

    def test_what_it_leaves_out_were_its_defaults(self, release, shop):
        release.pretrained(max_generation_len=20)
        keys = {"inherit_keys": ["model_type", "audio_target_length", "max_caption_len", "max_generation_len"]}
        model = shop.load("--pretrain_dir", "VALOR", "--train_task", "ret%tv", "--test_task", "ret%tv", model=keys).model_cfg
        assert (model.model_type, model.audio_target_length, model.max_caption_len, model.max_generation_len) == ("valor", 512, 32, 20)

    def test_keys_of_other_versions_are_passed_over_there(self, release):
        release.pretrained(something_new=3)
        assert release.load("--pretrain_dir", "VALOR").model_cfg.vision_encoder_type == "videoswin_base_k600_22k"
        release.pretrained(audio_patch_size=32)
        release.fails("VALOR/log/hps.json: audio_patch_size: expected 16", "--pretrain_dir", "VALOR")

    def test_a_run_s_own_settings_are_a_config(self, release):
        release.pretrained()
        config = load_config(["--config", "VALOR/log/hps.json"])
        assert config.model_cfg.vision_encoder_type == "videoswin_base_k600_22k" and config.data_cfg.train[0].name == "msrvtt_ret"


def test_the_ratio_is_of_pretraining_alone(release, caplog):
    with caplog.at_level(logging.WARNING, logger="omnivast"):
        assert release.load(contra_loss_ratio=1.5).model_cfg.contra_loss_ratio == 1.0
    assert caplog.messages[1:] == ["ft.json: contra_loss_ratio has no effect on tasks without pt_, as in the released VALOR"]
    assert release.load("--contra_loss_ratio", "1.5").model_cfg.contra_loss_ratio == 1.5



def test_settings_of_the_layout_need_it(shop):
    for keys, message in (({"ids_path": "x"}, "ids_path needs type valor"), ({"test_one": True}, "test_one needs type valor"),
                          ({"type": "valor"}, "ids_path is missing"),
                          ({"type": "valor", "ids_path": "x", "txt": ""}, "txt is missing: the annotation file, an object of texts by id"),
                          ({"type": "valor", "ids_path": "x", "shards": ["a"]}, "shards and shuffle_shards need type srcindexed; valor"),
                          ({"vision_format": "video", "cache_dir": "x"}, "folders of frames (vision_format video) are decoded already"),
                          ({"type": "srcindexed", "shards": ["a"], "vision": None, "vision_format": "video"}, "cannot be in shards")):
        with pytest.raises(ConfigError) as error:
            shop.load(val=copy.deepcopy(keys))
        assert message in str(error.value), str(error.value)
    with pytest.raises(ConfigError, match="captioner_mode reads annoindexed and srcindexed"):
        shop.load("--mode", "testing", "--checkpoint", "x.pt", "--captioner_mode", val={"type": "valor", "ids_path": "x", "task": "cap%tv"})
