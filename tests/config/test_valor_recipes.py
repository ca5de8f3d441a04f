"""Every recipe of VALOR against what its paper and its release say (tests/goldens/benchmarks_valor.json), and its scripts' names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnivast.config.load import load_config
from omnivast.config.schema import Config, DatasetConfig
from omnivast.config.tasks import Task

ROOT = Path(__file__).parents[2]
VALOR = ROOT / "config" / "valor"
TABLES = json.loads((ROOT / "tests" / "goldens" / "benchmarks_valor.json").read_text())
KINDS = {"retrieval": "retrieval", "captioning": "caption", "qa": "VQA"}
ROWS = [(kind, dict(zip(TABLES["finetuning_columns"], row, strict=True))) for kind in KINDS for row in TABLES[kind]]
STEMS = {"tgif_frameqa": "tgif-frame", "music_avqa": "music"}
IMAGES = {"mscoco", "vqav2", "cc3m", "cc12m", "visual_genome_regions"}
SAID_IN_WORDS = {"script", "config_task", "training_questions", "from", "fp16"}
"""Differences of the release that no setting expresses: ``about`` tells them; but of fp16: recipes leave the precision to the machine."""
ABLATIONS = TABLES["ablations"]


def load(name: str, *flags: str) -> Config:
    if not flags and name.endswith("_scst"):
        flags = ("--checkpoint", "x.pt")
    return load_config(["--config", f"config/valor/{name}.json", *flags])


def about(name: str) -> str:
    said = json.loads((VALOR / f"{name}.json").read_text()).get("about", "")
    return said if isinstance(said, str) else " ".join(said)


def groups(task: str) -> str:
    return "".join(group.key for group in Task.parse(task).all_groups)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def check_common(config: Config) -> None:
    run, common = config.run_cfg, TABLES["finetuning_common"]
    assert (run.optim, run.betas, run.seed) == (common["optimizer"], common["betas"], common["seed"])
    assert run.weight_decay == common["weight_decay"]
    assert run.scheduler == common["schedule"] == TABLES["pretraining"]["common"]["schedule"].split()[0]
    assert (run.beam_size, run.beam_size_qa, run.gradient_accumulation_steps) == (3, 1, 1)
    assert config.model_cfg.model_type == "valor" and config.model_cfg.label_smoothing == 0.0
    for dataset in config.data_cfg.train:
        assert dataset.whole_batches and dataset.steps is None and dataset.type == "valor"


@pytest.mark.parametrize("kind, cells", ROWS, ids=[f"{kind}-{cells['benchmark']}" for kind, cells in ROWS])
def test_finetuning(kind, cells):
    benchmark, common, differences = cells["benchmark"], TABLES["finetuning_common"], cells["differences"]
    base, scst = benchmark.removesuffix("_scst"), benchmark.endswith("_scst")
    stem = STEMS.get(base, base.removesuffix("_qa")) + ("_scst" if scst else "")
    name = f"finetune_cfg/{KINDS[kind]}-{stem}"
    config = load(name)
    check_common(config)
    run, model, (train,), (test,) = config.run_cfg, config.model_cfg, config.data_cfg.train, config.data_cfg.val
    assert (run.learning_rate, run.scst_finetuning, run.save_best) == (cells["learning_rate"], scst, True)
    assert run.clip_lr == run.clip_lr_text == common["learning_rate_clip_tower"] and run.grad_norm == common["grad_norm"]
    assert run.warmup_ratio == differences.get("warmup_ratio", common["warmup_ratio"])
    assert run.valid_freq == differences.get("valid_freq", common["valid_freq"])
    assert bool(run.java_metrics_seconds) is (kind == "captioning") is bool(test.annfile)  # METEOR is among the published numbers
    assert (train.batch_size, train.epoch) == (cells["batch_size"], cells["epochs"])
    assert test.batch_size == differences.get("test_batch_size", 64)
    assert Task.parse(train.task) == Task.parse(cells["train_task"]) and Task.parse(test.task) == Task.parse(cells["test_task"])
    assert (train.vision_sample_num, test.vision_sample_num) == (cells["train_frames"], cells["test_frames"])
    assert (train.audio_sample_num, test.audio_sample_num) == (cells["train_audio_clips"], cells["test_audio_clips"])
    assert model.vision_resolution == (cells["resolution"] or 224)
    assert {train.vision_transforms, test.vision_transforms} == {cells["vision_transforms"] or "none"}
    # [CLS] and [SEP] count here, and do not in the release.
    assert model.max_caption_len == differences.get("max_txt_len", common["max_txt_len"]) + 2
    assert (model.checkpointing, model.full_masker) == (differences.get("checkpointing", False), differences.get("full_masker", False))
    assert differences.keys() <= SAID_IN_WORDS | {"reward", "max_txt_len", "test_batch_size", "checkpointing", "full_masker", "valid_freq",
                                                 "warmup_ratio"}
    assert bool(about(name)) is bool(differences.keys() & (SAID_IN_WORDS - {"fp16"}))
    assert differences.get("config_task", "") in about(name)
    assert run.scst_reward == {"CIDEr + BLEU-4": "cider_bleu4", None: "cider"}[differences.get("reward")]
    for dataset in (train, test):
        check_places(dataset, base)


def check_places(dataset: DatasetConfig, benchmark: str) -> None:
    """Ids, texts and media lie where the release has them, one folder per corpus."""
    given = (dataset.ids_path, dataset.txt, dataset.annfile, dataset.vision, dataset.audio)
    assert len({path.split("/")[1] for path in given if path}) == 1 and all(path.startswith("datasets/") for path in given if path)
    seen = "v" in groups(dataset.task)
    assert (dataset.vision is not None, dataset.audio is not None) == (seen, dataset.audio_sample_num is not None)
    assert not seen or dataset.vision_format == ("image_rawimage" if benchmark in IMAGES else "video")


def test_the_lists_of_ids_are_the_release_s():
    named = {"msrvtt retrieval": "retrieval-msrvtt", "msrvtt captioning, qa": "caption-msrvtt VQA-msrvtt",
             "msvd retrieval, captioning": "retrieval-msvd caption-msvd", "msvd qa": "VQA-msvd",
             "activitynet retrieval": "retrieval-activitynet", "activitynet qa, music qa": "VQA-activitynet VQA-music",
             "tgif": "VQA-tgif-frame", "vqav2": "VQA-vqav2",
             "didemo, lsmdc, valor32k, clotho": "retrieval-didemo retrieval-lsmdc retrieval-valor32k caption-valor32k retrieval-clothov1 "
                                                "caption-clothov1",
             "vatex retrieval": "retrieval-vatex", "vatex captioning": "caption-vatex caption-vatex_scst", "audiocaps retrieval":
             "retrieval-audiocaps", "audiocaps captioning": "caption-audiocaps",
             "mscoco": "retrieval-mscoco caption-mscoco caption-mscoco_scst"}
    assert named.keys() == TABLES["splits"]["id_files"].keys()
    assert sum(len(names.split()) for names in named.values()) == len(ROWS) == 25
    for files, names in ((TABLES["splits"]["id_files"][key], names) for key, names in named.items()):
        for name in names.split():
            data = load(f"finetune_cfg/{name}").data_cfg
            assert [Path(dataset.ids_path).name for dataset in (*data.train, *data.val)] == files


def test_every_row_has_its_file_and_every_file_its_row():
    wanted = {f"{KINDS[kind]}-{STEMS.get(base, base.removesuffix('_qa'))}{cells['benchmark'][len(base):]}.json"
              for kind, cells in ROWS for base in [cells["benchmark"].removesuffix("_scst")]}
    assert {path.name for path in (VALOR / "finetune_cfg").iterdir()} == wanted and len(wanted) == 25


@pytest.mark.parametrize("size", ["base", "large"])
def test_pretraining(size):
    common, wanted = TABLES["pretraining"]["common"], TABLES["pretraining"][f"valor_{size}"]
    config = load(f"pretrain_cfg/pretrain_{size}")
    check_common(config)
    run, model = config.run_cfg, config.model_cfg
    assert run.learning_rate == wanted["learning_rate"] and run.grad_norm == wanted["grad_norm"]
    assert (run.warmup_ratio, run.seed, run.dataset_mix_type) == (common["warmup_ratio"], common["seed"], "random")
    if size == "large":
        assert (run.clip_lr, run.clip_lr_text) == (wanted["learning_rate_vision"], wanted["learning_rate_logit_scale"])
    assert (model.max_caption_len, model.contra_loss_ratio, model.contra_dim) == (common["max_txt_len"] + 2, common["contra_loss_ratio"],
                                                                                 common["contra_dim"])
    assert (model.vision_resolution, model.audio_target_length, model.audio_melbins) == (
        common["resolution"], common["audio_frames_per_clip"], common["mel_bins"])
    assert model.vision_encoder_type == wanted["vision"].split()[0]
    assert model.text_encoder_type == wanted["text_and_decoder"].replace("_", "-")
    assert (model.audio_encoder_type, model.use_task_prompt) == (wanted["audio"], wanted["use_task_prompt"])
    assert (model.share_txt_and_multimodal, model.txt_encoder_type) == (True, "bert_base_uncased")
    for corpus, row in zip(config.data_cfg.train, wanted["corpora"], strict=True):
        cells = dict(zip(wanted["corpora_columns"], row, strict=True))
        assert (corpus.name, corpus.batch_size, corpus.epoch) == (cells["corpus"], cells["batch_size"], cells["epochs"])
        assert corpus.task == cells["objectives"].replace("pt_contra", "ret").replace("caption", "cap")
        assert (corpus.vision_sample_num, corpus.audio_sample_num) == (cells["train_frames"], cells["train_audio_clips"])
        assert (corpus.vision_format == "image_rawimage") is (cells["kind"] == "image") is (cells["corpus"] in IMAGES)
        check_places(corpus, cells["corpus"])
    paper = wanted["paper"]
    said = about(f"pretrain_cfg/pretrain_{size}")
    assert f"batch {paper['batch_size']:,}" in said and f"{paper['steps']:,} steps" in said and "learning rate 1e-4" in said


def test_the_large_model_is_finetuned_by_the_same_recipes(tmp_path):
    """Its towers, prompts and the like come from the run that it starts from."""
    (tmp_path / "log").mkdir()
    pretrained = load("pretrain_cfg/pretrain_large")
    (tmp_path / "log" / "hps.json").write_text(json.dumps({"model_cfg": vars(pretrained.model_cfg)}))
    config = load("finetune_cfg/retrieval-msrvtt", "--pretrain_dir", str(tmp_path))
    assert (config.model_cfg.vision_encoder_type, config.model_cfg.use_task_prompt) == ("clip_vit_large_14_336px", True)
    assert (config.model_cfg.max_caption_len, config.model_cfg.contra_loss_ratio) == (32, 1.0)


# ------------------------------------------------------------------------------------------------------------------ ablations


def of_our_notation(names: str) -> str:
    return "%".join({"va": "v-a", "vta": "v-ta", "atv": "a-tv"}.get(group, group) for group in names.split("+"))


def ablations() -> dict[str, dict[str, object]]:
    """Name of the variant → what the table's row says, by our settings."""
    found: dict[str, dict[str, object]] = {}
    for names, *_ in ABLATIONS["groups_of_alignment"]["rows"]:
        found[f"table8-{'all' if names.count('+') > 2 else names.replace('+', '_')}"] = {"task": f"ret%{of_our_notation(names)}"}
    for names, *_ in ABLATIONS["groups_of_captioning"]["rows"]:
        found[f"table9-{names.replace('+', '_')}"] = {"task": f"cap%{of_our_notation(names)}"}
    for kind, fusion, weights, *_ in ABLATIONS["fusion_in_alignment"]["rows"]:
        found[f"table10-{kind}_{fusion}{'_weighted' if weights else ''}"] = {
            "task": "ret%tva", "contra_type": kind, "late_fusion": fusion == "score",
            **({"fineweight_type": "mlp" if weights else "none"} if kind == "fine" else {})}
    for kind, *_ in ABLATIONS["fusion_in_captioning"]["rows"]:
        merge = kind.startswith("merge")
        found[f"table11-{'merge' if merge else kind}"] = {"task": "cap%tva", "multimodal_use_cross_attn": not merge,
                                                          **({} if merge else {"cross_attn_type": kind})}
    for shared, ratio, *_ in ABLATIONS["both_objectives"]["rows"]:
        found[f"table12-{'shared' if shared else 'separate'}_{ratio:g}"] = {"share_txt_and_multimodal": shared, "contra_loss_ratio": ratio}
    vision = {"videoswin_base": "videoswin_base_k600_22k", "clip_base": "clip_vit_base_16", "clip_large": "clip_vit_large_14_336px"}
    for seen, text, millions, *_ in ABLATIONS["architectures"]["rows"]:
        if (seen, text, millions) == ("clip_large", "bert_base", 33.5):
            continue  # VALOR-L itself
        found[f"table13-{seen}_{text}{'' if millions == 1 else '_33m'}"] = {
            "vision_encoder_type": vision[seen], "corpora": 1 if millions == 1 else 7,
            "text_encoder_type": "bert-large-uncased" if text == "bert_large" else "bert-base-uncased",
            "txt_encoder_type": vision[seen] if text == "clip_large" else "bert_base_uncased"}
    return found


@pytest.mark.parametrize("name, wanted", ablations().items(), ids=ablations())
def test_ablation(name, wanted):
    config, default = load(f"ablation_cfg/{name}"), load("ablation_cfg/default")
    check_common(config)
    # The longest task of each loss, where the row does not say another.
    task = wanted.pop("task", "ret%tva%tv%ta_cap%tva%tv%ta")
    (first, *_), corpora = config.data_cfg.train, wanted.pop("corpora", 1)
    assert Task.parse(first.task) == Task.parse(task) and len(config.data_cfg.train) == corpora
    assert {key: getattr(config.model_cfg, key) for key in wanted} == wanted
    if corpora == 1:  # All else is as in the others.
        assert vars(first) == {**vars(default.data_cfg.train[0]), "task": first.task} and config.run_cfg == default.run_cfg
        differ = {key for key, value in vars(config.model_cfg).items() if value != getattr(default.model_cfg, key)}
        assert differ <= wanted.keys()


def test_what_the_ablations_have_in_common_and_that_there_are_no_others():
    assert {path.stem for path in (VALOR / "ablation_cfg").iterdir()} == {"default", "alignment", "captioning", *ablations()}
    config = load("ablation_cfg/default")
    (corpus,) = config.data_cfg.train
    assert ABLATIONS["setting"].startswith("Video Swin small (Kinetics-400) unless said, 4 epochs of VALOR-1M, batch 512")
    assert (corpus.name, corpus.epoch, corpus.batch_size) == ("valor1m", 4, 512)
    assert config.model_cfg.vision_encoder_type == "videoswin_small_k400_1k"
