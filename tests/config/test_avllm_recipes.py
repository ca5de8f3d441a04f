"""config/avllm: the paper's sizes, and what each ablation changes of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from omnivast.config.fields import ConfigError
from omnivast.config.load import load_config
from omnivast.evaluation import published
from tests.model.avllm.tiny import make_llm

CONFIGS = Path(__file__).parents[2] / "config" / "avllm"
ABLATIONS = sorted(path.stem for path in (CONFIGS / "ablation_cfg").glob("*.json"))


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return make_llm(tmp_path_factory.mktemp("llm"))


def load(name, llm):
    return load_config(["--config", str(CONFIGS / f"{name}.json"), "--llm", llm])


def test_both_stages_are_the_papers(llm):
    """Section 4.1."""
    one, two = load("pretrain_cfg/stage1", llm), load("finetune_cfg/stage2", llm)
    for config, rate, batch, epochs, tuned in ((one, 2e-3, 256, 3, "projectors"), (two, 2e-5, 128, 1, "full")):
        run, model = config.run_cfg, config.model_cfg
        assert (run.learning_rate, run.optim, run.betas, run.scheduler, run.warmup_ratio) == (rate, "adamw", [0.9, 0.98],
                                                                                              "warmup_cosine", 0.03)
        assert (model.vision_encoder_type, model.audio_encoder_type) == ("clip_vit_large_14", "hf:laion/clap-htsat-unfused")
        assert (model.llm_tune, model.llm_projector, model.vision_resolution) == (tuned, "linear", 224)
        for dataset in config.data_cfg.train:
            assert (dataset.batch_size, dataset.epoch) == (batch, epochs)
            assert dataset.vision_sample_num in (None, 1 if dataset.vision_format == "image_rawimage" else 32)
            assert dataset.audio_sample_num in (None, 4)
    assert one.model_cfg.llm_template == "plain" and two.model_cfg.llm_template == "vicuna_v1"


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_it_is_about(name, llm):
    stage, own = load("finetune_cfg/stage2", llm), load(f"ablation_cfg/{name}", llm)
    changed = {key for section in ("run_cfg", "model_cfg") for key, value in dataclasses.asdict(getattr(own, section)).items()
               if value != getattr(getattr(stage, section), key)} - {"output_dir", "max_vision_sample_num",
                                                                                                      "max_audio_sample_num"}
    of_stage = {dataset.name: dataset for dataset in stage.data_cfg.train}
    assert {dataset.name for dataset in own.data_cfg.train} == of_stage.keys()
    samples = {key for one in own.data_cfg.train for key, value in dataclasses.asdict(one).items()
               if value != getattr(of_stage[one.name], key)}
    expected = {"lora": {"llm_tune", "learning_rate"}, "table4": {"modality_order", "dataset_mix_type"}, "table5": {"vision_encoder_type"},
                "table6": {"audio_encoder_type", "audio_melbins", "audio_target_length"}, "table7": set(),
                "figure9": {"vision_sample_num"}, "figure10": {"audio_sample_num"}}
    assert changed | samples == expected[name.split("-")[0]]


def test_batches_are_of_all_three_kinds_and_plain_training_of_one_after_the_other(llm):
    """Table 4: what has all three kinds is one corpus; pictures, of one frame, come with the rows about sight."""
    for name in ("pretrain_cfg/stage1", "finetune_cfg/stage2"):
        *joined, pictures = load(name, llm).data_cfg.train
        assert [dataset.task for dataset in joined] == ["chat%tva", "chat%ta", "chat%tv"] and len({d.joined for d in joined} - {""}) == 1
        assert (pictures.joined, pictures.vision_format) == ("", "image_rawimage")
    for name, order, place in (("pt1", "joint_first", -1), ("pt2", "single_first", 0)):
        config = load(f"ablation_cfg/table4-{name}", llm)
        assert (config.run_cfg.modality_order, config.run_cfg.dataset_mix_type) == (order, "in-order")
        assert config.data_cfg.train[place].vision_format == "image_rawimage"


def test_every_ablation_of_the_paper_is_there():
    """Tables 4 to 7 and 9, figures 9 and 10; what is stage 2 itself is left out. Table 8 is a judge's scores, no training."""
    assert set(ABLATIONS) == {
        "table4-pt1", "table4-pt2", "table5-vit_base_16", "table5-vit_huge_14", "table6-whisper_tiny", "table6-whisper_base",
        "table6-whisper_small", "table7-vicuna_13b", "lora", *(f"figure9-frames_{n}" for n in (4, 8, 16, 64)),
        *(f"figure10-slices_{n}" for n in (1, 2, 8, 16))}


def test_a_benchmark_is_tested_as_published_and_tuned_as_stage_2(llm):
    stage, tested = load("finetune_cfg/stage2", llm), {}
    for path in sorted((CONFIGS / "finetune_cfg").glob("*-*.json")):
        config = load(f"finetune_cfg/{path.stem}", llm)
        (train,), (test,) = config.data_cfg.train, config.data_cfg.val
        assert config.model_cfg == dataclasses.replace(stage.model_cfg, max_vision_sample_num=config.model_cfg.max_vision_sample_num,
                                                       max_audio_sample_num=config.model_cfg.max_audio_sample_num)
        assert (config.run_cfg.learning_rate, train.batch_size, train.epoch) == (2e-5, 128, 1)
        assert train.task == test.task and train.name == test.name and Path(train.txt).parent == Path(test.txt).parent
        protocol = {"dataset": test.name, "model_type": "avllm"}
        row = published.reference(protocol, zero_shot=True)
        settings = {"group": f"t{test.task.split('%t')[1]}", "frames": test.vision_sample_num, "slices": test.audio_sample_num,
                    "resolution": config.model_cfg.vision_resolution if test.vision else None}
        assert {key: value for key, value in settings.items() if value} == {k: v for k, v in row.settings.items() if k != "judge"}
        assert bool(config.run_cfg.java_metrics_seconds) is bool(test.annfile) is ("spider" in row.results)
        tested[test.name] = test.task.split("%")[0]
    assert tested == {"msvd_qa": "qa", "msrvtt_qa": "qa", "activitynet_qa": "qa", "avssd_qa": "qa", "music_qa": "qa", "avsd_qa": "chat",
                      "clothov1_cap": "cap", "audiocaps_cap": "cap"}


def test_datasets_of_conversations_are_joined_though_they_have_other_tracks(llm):
    """But not with other numbers of frames or slices: they are in one batch."""
    flags = ["--config", str(CONFIGS / "finetune_cfg" / "stage2.json"), "--llm", llm]
    assert len({dataset.task for dataset in load_config(flags).data_cfg.train if dataset.joined == "instructions"}) == 3
    with pytest.raises(ConfigError, match="audio_sample_num is 8, but 'instructions_av', which is joined with it as 'instructions', has 4"):
        load_config([*flags, "--data_cfg.train.1.audio_sample_num", "8"])
    with pytest.raises(ConfigError, match="vision_sample_num is 16, but 'instructions_av'"):
        load_config([*flags, "--data_cfg.train.2.vision_sample_num", "16"])
    with pytest.raises(ConfigError, match="task is cap%tv, but 'instructions_av', which is joined with it as 'instructions', has chat%tva"):
        load_config([*flags, "--data_cfg.train.2.task", "cap%tv"])
