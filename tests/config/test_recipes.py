"""Every recipe of the paper against its tables, and config files of the release as they are."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from omnivast.config.load import load_config
from omnivast.config.schema import Config, DatasetConfig
from omnivast.config.tasks import Task
from tests.config.released import DEFAULT_MODEL, DEFAULT_RUN, TRAIN, VAL

ROOT = Path(__file__).parents[2]
VAST = ROOT / "config" / "vast"
TABLES = ROOT.parent / "shared" / "benchmarks.json"
BENCHMARKS = json.loads(TABLES.read_text()) if TABLES.exists() else {}
# What the release calls a benchmark, where the paper's table says otherwise.
RELEASED = {"flickr30k": "flickr", "youcook2": "youcook", "tvc": "tv", "msvd_qa": "msvd", "tgif_frameqa": "tgif-frame",
            "msrvtt_qa": "msrvtt", "music_avqa": "music", "anet_qa": "activitynet"}
KINDS = {"retrieval": "retrieval", "captioning": "caption", "qa": "VQA"}
ROWS = [(kind, row) for kind in KINDS for row in BENCHMARKS.get(kind, ())]
IMAGES = {"mscoco", "flickr", "vqav2"}
SOUNDS = {"clothov1", "clothov2", "audiocaps"}
EVERY = sorted(path for folder in ("pretrain_cfg", "finetune_cfg", "captioner_cfg") for path in (VAST / folder).glob("*.json"))


def load(path: Path, *flags: str) -> Config:
    """The recipe; those that go on from a trained model are given one."""
    if not flags and ("scst" in path.stem or "generation" in path.stem):
        flags = ("--checkpoint", "x.pt")
    return load_config(["--config", path.relative_to(ROOT).as_posix(), *flags])


def corpora(config: Config) -> tuple[DatasetConfig, ...]:
    return (*config.data_cfg.train, *config.data_cfg.val)


def task_of_the_paper(text: str) -> Task:
    """``ret%vast%vt + cap%vast%vt``, as the tables write it."""
    return Task.parse("_".join(part.strip() for part in text.split("+")))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


needs_tables = pytest.mark.skipif(not BENCHMARKS, reason="../shared/benchmarks.json is absent")


@needs_tables
@pytest.mark.parametrize("kind, row", ROWS, ids=[f"{kind}-{row[0]}" for kind, row in ROWS])
def test_table_10(kind, row):
    cells = dict(zip(BENCHMARKS["finetuning_columns"], row, strict=True))
    benchmark = cells["benchmark"].removesuffix("_scst")
    benchmark, scst = RELEASED.get(benchmark, benchmark), cells["benchmark"].endswith("_scst")
    config = load(VAST / "finetune_cfg" / f"{KINDS[kind]}-{benchmark}{'_scst' if scst else ''}.json")
    (train,), (test,) = config.data_cfg.train, config.data_cfg.val
    assert config.run_cfg.learning_rate == cells["learning_rate"] and config.run_cfg.scst_finetuning is scst
    assert (train.batch_size, train.epoch, train.steps) == (cells["batch_size"], cells["epochs"], None)
    assert Task.parse(train.task) == Task.parse(test.task) == task_of_the_paper(cells["objective"])
    frames = None if benchmark in SOUNDS else 1 if benchmark in IMAGES else 0
    assert (train.vision_sample_num, test.vision_sample_num) == (
        (frames, frames) if frames != 0 else (cells["train_frames"], cells["test_frames"]))
    assert (train.audio_sample_num, test.audio_sample_num) == (cells["train_audio_clips"], cells["test_audio_clips"])
    assert config.model_cfg.vision_resolution == (cells["resolution"] or 224)
    assert config.model_cfg.max_vision_sample_num == (train.vision_sample_num or 1)
    assert bool(test.annfile) is (kind == "captioning")
    # The paper's captioning tables have METEOR and SPICE, too.
    assert bool(config.run_cfg.java_metrics_seconds) is (kind == "captioning")


@needs_tables
def test_every_row_has_its_file_and_every_file_its_row():
    wanted = set()
    for kind, (benchmark, *_) in ROWS:
        base = benchmark.removesuffix("_scst")
        wanted.add(f"{KINDS[kind]}-{RELEASED.get(base, base)}{benchmark[len(base):]}.json")
    assert {path.name for path in (VAST / "finetune_cfg").glob("*")} == wanted and len(wanted) == 12 + 11 + 6


@needs_tables
def test_table_8():
    wanted, config = BENCHMARKS["pretraining"], load(VAST / "pretrain_cfg" / "pretrain_vast.json")
    assert config.run_cfg.learning_rate == wanted["learning_rate"] and config.run_cfg.scheduler == "warmup_linear"
    assert sum(corpus.steps for corpus in config.data_cfg.train) == wanted["steps"]
    for corpus, row in zip(config.data_cfg.train, wanted["corpora"], strict=True):
        assert (corpus.name, corpus.batch_size, corpus.steps) == (row["name"], row["batch_size"], row["steps"])
        assert Task.parse(corpus.task) == task_of_the_paper(row["objectives"])
        groups = "".join(group.key for group in Task.parse(corpus.task).all_groups)
        assert corpus.vision_sample_num == (wanted["vision_frames"] if "v" in groups else None)
        assert corpus.audio_sample_num == (wanted["audio_clips"] if "a" in groups else None)


@needs_tables
@pytest.mark.parametrize("kind", ["vision", "audio"])
def test_captioners_label_as_the_paper_does(kind):
    """Five captions per clip by sampling; trained on the corpora of section 3 with Table 8's steps."""
    labelling = load(VAST / "captioner_cfg" / f"caption-generation-{kind}.json")
    run, said = labelling.run_cfg, BENCHMARKS["evaluation_protocol"]["labelling"]
    assert said == f"{run.generate_nums} vision and {run.generate_nums} audio captions per clip, top-k sampling with k = 10"
    assert run.captioner_mode and run.mode == "testing" and run.generate_by == "sample"
    training = load(VAST / "captioner_cfg" / f"caption-pretrain-{kind}.json")
    other = {"vision": "audio", "audio": "vision"}[kind]
    assert getattr(training.model_cfg, f"{other}_encoder_type") is None
    assert {d.task for d in (*corpora(training), *labelling.data_cfg.val)} == {f"cap%t{kind[0]}"}
    rows = {row["name"]: row for row in BENCHMARKS["pretraining"]["corpora"]}
    assert {"vision": {"cc4m", "cc12m", "laion102m"}, "audio": {"valor1m", "wavcaps"}}[kind] == {d.name for d in training.data_cfg.train}
    for corpus in training.data_cfg.train:
        row = rows[corpus.name.replace("102m", "110m")]
        assert (corpus.batch_size, corpus.steps) == (row["batch_size"], row["steps"])


def test_the_vision_captioner_is_finetuned_on_images_and_videos():
    config = load(VAST / "captioner_cfg" / "caption-finetune-vision.json")
    assert [d.name for d in config.data_cfg.train] == ["mscoco_cap", "vatex_cap", "msrvtt_cap", "msvd_cap"]
    assert {d.task for d in corpora(config)} == {"cap%tv"} and config.model_cfg.audio_encoder_type is None


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_media_and_annotations_lie_where_the_release_has_them(path):
    for dataset in corpora(load(path)):
        folder = dataset.txt.split("/")[2]
        assert dataset.txt.startswith(f"datasets/annotations/{folder}/") and dataset.txt.endswith(".json")
        assert dataset.annfile in (None, f"datasets/annotations/{folder}/caption_annotation.json")
        modalities = "".join(modality.value for modality in Task.parse(dataset.task).modalities)
        media = "mscoco" if folder == "vqav2" else folder
        form = {"videos": "video_rawvideo", "frames": "video_frame", "images": "image_rawimage"}
        if "v" in modalities or dataset.audio is None:
            # Flickr30k's ids begin with the folder that its archive makes: flickr30k-images/97233789.jpg.
            kind = dataset.vision.removeprefix(f"datasets/srcdata/{media}").removeprefix("/") or "images"
            assert dataset.vision_format == form[kind] and ("/" in dataset.vision.removeprefix("datasets/srcdata/") or media == "flickr")
        else:
            assert dataset.vision is None and dataset.audio == f"datasets/srcdata/{media}/audios"


# ---------------------------------------------------------------------------------------------------- the release's own files

NO_EFFECT = ("run_cfg.vision_resolution", "run_cfg.use_ddp", "model_cfg.evaluation_type")


@pytest.fixture
def released(shop):
    """A folder with the release's default files; writes a config of these data_cfg lists beside them."""
    shop.write("config/vast/default_run_cfg.json", DEFAULT_RUN)
    shop.write("config/vast/default_model_cfg.json", DEFAULT_MODEL)

    def write(data, run=None, model=None):
        shop.write("config/vast/cfg.json", {
            "run_cfg": {"default": "./config/vast/default_run_cfg.json", **(run or {})},
            "model_cfg": {"default": "./config/vast/default_model_cfg.json", **(model or {})}, "data_cfg": data})
        return lambda *flags: load_config(["--config", "./config/vast/cfg.json", *flags])
    return write


def test_a_released_finetuning_config_runs_unmodified(released, shop, caplog):
    """With the flags of the release's own script."""
    shop.write("output/vast/pretrain_vast/log/hps.json", {"run_cfg": DEFAULT_RUN, "model_cfg": {
        **DEFAULT_MODEL, "default": "./config/vast/default_model_cfg.json", "max_vision_sample_num": 8, "max_audio_sample_num": 1},
        "data_cfg": {"concatenated_nums": 1}, "local_rank": 0})
    with caplog.at_level(logging.WARNING, logger="omnivast"):
        config = released({"train": [TRAIN], "val": [VAL]})(
            "--local_rank", "0", "--learning_rate", "2e-5", "--checkpointing", "true", "--first_eval", "true", "--save_best", "true",
            "--pretrain_dir", "./output/vast/pretrain_vast", "--output_dir", "./output/vast/pretrain_vast/downstream/retrieval-msrvtt")
    assert sorted(message.split(": ")[1].split(" has no effect")[0] for message in caplog.messages) == sorted(NO_EFFECT)
    run, model, (train,), (val,) = config.run_cfg, config.model_cfg, config.data_cfg.train, config.data_cfg.val
    assert (run.learning_rate, run.clip_lr, run.checkpoint, run.num_train_steps, run.new_lr or None) == (2e-5, 5e-7, None, None, None)
    assert run.precision == "fp16" and run.save_best and run.first_eval and run.pretrain_dir == "./output/vast/pretrain_vast"
    assert (model.checkpointing, model.vision_resolution, model.max_vision_sample_num, model.itm_ratio) == (True, 224, 8, 0.1)
    for dataset, given in ((train, TRAIN), (val, VAL)):
        assert {key: getattr(dataset, key) for key in given} == given


def test_a_public_gram_config_runs_unmodified(released, caplog):
    """VAST's keys, obsolete ones among them, and four frames."""
    train = {**TRAIN, "task": "ret%tv%ta", "vision_sample_num": 4, "datatype": "video_rawvideo"}
    with caplog.at_level(logging.WARNING, logger="omnivast"):
        config = released({"train": [train], "val": [VAL]}, model={"model_type": "gram"})("--gram_volume", "task")
    assert {"model_cfg.evaluation_type", "data_cfg.train[0].datatype"} <= {
        message.split(": ")[1].split(" has no effect")[0] for message in caplog.messages}
    model = config.model_cfg
    assert (model.model_type, model.gram_cosine, model.gram_volume, model.max_vision_sample_num) == ("gram", 0.0, "task", 4)


def test_a_released_labelling_config_runs_unmodified(released):
    """Its training list is an empty object, and its id list has nothing but ids."""
    val = {"type": "annoindexed", "training": False, "name": "yourdata", "txt": "datasets/annotations/yourdata/meta.json",
           "vision": "datasets/srcdata/yourdata/videos", "vision_format": "video_rawvideo", "vision_sample_num": 8, "task": "cap%tv",
           "n_workers": 8, "batch_size": 64}
    load = released({"train": {}, "val": [val]}, run={"mode": "testing"})
    config = load("--checkpoint", "x.pt", "--test_batch_size", "64", "--test_vision_sample_num", "4", "--generate_nums", "3",
                  "--captioner_mode", "true")
    assert config.data_cfg.train == () and config.data_cfg.val[0].vision_sample_num == 4
    assert config.run_cfg.captioner_mode and config.run_cfg.generate_nums == 3


def test_obsolete_keys_of_datasets_say_what_replaces_them(released, caplog):
    gone = {"make_submission": True, "multi_evaluation": True, "vqa_anno_file": "a.json", "vqa_question_file": "q", "datatype": "video"}
    with caplog.at_level(logging.WARNING, logger="omnivast"):
        released({"train": [TRAIN], "val": [{**VAL, **gone}], "concatenated_nums": 1})("--amp", "apex")
    for key in (*(f"data_cfg.val[0].{key}" for key in gone), "data_cfg.concatenated_nums", "--amp"):
        assert sum(f"{key} has no effect: " in message for message in caplog.messages) == 1, key


def test_bf16_on_the_command_line_replaces_the_released_fp16(released):
    load = released({"train": [TRAIN], "val": [VAL]})
    assert load("--bf16", "true").run_cfg.precision == "bf16"
    assert [load("--precision", name).run_cfg.precision for name in ("auto", "float32", "bf16")] == ["auto", "float32", "bf16"]


@pytest.mark.parametrize("path", sorted((ROOT / "config").rglob("*.json")), ids=lambda path: path.relative_to(ROOT / "config").as_posix())
def test_every_recipe_leaves_the_precision_to_the_machine(path):
    run = json.loads(path.read_text()).get("run_cfg", {}) if "default" not in path.stem else json.loads(path.read_text())
    assert run.get("precision", "auto") == "auto" and not {"bf16", "fp16"} & run.keys()


def test_only_these_default_values_of_the_release_are_not_ours(released, monkeypatch):
    """Ours differ from the release's files where its scripts set the value anyway, and in what else is inherited."""
    theirs = released({"train": [TRAIN], "val": [VAL]})()
    monkeypatch.chdir(ROOT)
    ours = load(VAST / "finetune_cfg" / "retrieval-msrvtt.json")
    differ = {key for key, value in vars(theirs.run_cfg).items() if getattr(ours.run_cfg, key) != value}
    # 0 as new_lr, which no parameter has, is the release's word for none.
    assert differ - {"use_ddp", "new_lr"} == {"learning_rate", "save_best", "precision"}
    assert {key for key, value in vars(theirs.model_cfg).items() if getattr(ours.model_cfg, key) != value} == {"inherit_keys"}
