"""VALOR as its release has it: flat configs, files of ids and texts, frames beside videos, a pretrained folder, the release's flags."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from omnivast.data.media.decode import read_clip
from omnivast.model.valor.names import NAMES
from omnivast.model.weights import read_state_dict
from omnivast.utils.log import read_jsonl
from tests.e2e.program import results
from tests.media_factory import write_json

SIZES = {
    "vision_encoder_cfg": {"patch_size": 16, "width": 32, "layers": 1, "heads": 2},
    "audio_encoder_cfg": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    "text_encoder_cfg": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
                         "max_position_embeddings": 128}}
SETTINGS = {
    "output_dir": "", "video_resolution": 32, "audio_melbins": 64, "audio_patch_size": 16, "audio_mean": -4.2677393, "audio_std": 4.5689974,
    "audio_frame_shift": 10, "audio_target_length": 512, "gradient_accumulation_steps": 1, "learning_rate": 1e-3, "optim": "adamw",
    "betas": [0.9, 0.98], "weight_decay": 0.01, "grad_norm": 5.0, "warmup_ratio": 0.1, "seed": 50, "fp16": False, "pin_mem": True}
TOWERS = {"video_encoder_type": "clip_vit_base_16", "txt_encoder_type": "bert_base_uncased", "multimodal_encoder_type": "bert_base_uncased",
          "audio_encoder_type": "ast", "contra_type": "coarse", "caption_type": "unimlm", "multimodal_use_cross_attn": True,
          "share_txt_and_multimodal": True, "contra_loss_ratio": 1.5, "feature_pooling_type": "none"}


@pytest.fixture(scope="module")
def house(clips, tmp_path_factory) -> Path:
    """A folder in the release's layout: of the clips' videos some are folders of frames."""
    folder = tmp_path_factory.mktemp("valor")
    (folder / "media").mkdir()
    captions, questions = {}, {}
    for split in ("train", "test"):
        rows = json.loads((clips.folder / f"ret_{split}.json").read_text())
        write_json(folder / f"{split}_id.json", [row["video_id"] for row in rows])
        captions |= {row["video_id"]: row["desc"] if place % 2 else [row["desc"], "another"] for place, row in enumerate(rows)}
        for row in json.loads((clips.folder / f"qa_{split}.json").read_text()):
            asked = [row["question"]] if isinstance(row["question"], str) else row["question"]
            for question, answer in zip(asked, [row["answer"]] if isinstance(row["answer"], str) else row["answer"]):
                entry = ({"answer": [answer, "dog"], "answer_weights": [1.0, 0.3]} if split == "train"
                         else {"answer": answer, "question_id": sum(map(len, questions.values()))})
                questions.setdefault(row["video_id"], []).append({"question": question, **entry})
    for place, clip_id in enumerate(captions):
        video = clips.folder / "clips" / f"{clip_id}.mp4"
        if place % 5:
            (folder / "media" / video.name).symlink_to(video)
            continue
        frames = read_clip(video, lambda count: list(range(min(count, 4)))).frames
        (folder / "media" / clip_id).mkdir()
        for number, frame in enumerate(frames):
            _write_frame(folder / "media" / clip_id / f"img_{number:04}.jpg", frame)
    write_json(folder / "txt_mapper.json", captions)
    write_json(folder / "txt_mapper_vqa.json", questions)
    write_json(folder / "caption_annotation.json", [{"video_id": clip_id, "caption": texts if isinstance(texts, str) else texts[0]}
                                                    for clip_id, texts in captions.items()])
    return folder


def _write_frame(path, frame):
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(path)


def dataset(house, name, split, texts="txt_mapper.json", **more):
    return {"name": name, "ids_path": str(house / f"{split}_id.json"), "txt": str(house / texts), "video": str(house / "media"),
            "speech": "speech_mapper.json", "datatype": "video", **more}


def group(task, *datasets, **more):
    return {"datasets": list(datasets), "video_sample_num": 2, "audio_sample_num": 1, "max_txt_len": 20, "task": task, "epoch": 1,
            "n_workers": 0, "batch_size": 16, **more}


def val(house, name, task, texts="txt_mapper.json", **more):
    return {**dataset(house, name, "test", texts), "video_sample_num": 3, "audio_sample_num": 2, "max_txt_len": 20, "task": task,
            "n_workers": 0, "batch_size": 6, **more}


def test_the_release_s_configs_flags_and_folders_run_as_they_are(clips, house, run_program, tmp_path):
    small = ["--pretrained", "false", "--text_encoder_type", "bert", "--tokenizer", str(clips.folder / "vocab.txt"), "--num_threads", "1"]
    small += [word for name, sizes in SIZES.items() for word in (f"--{name}", json.dumps(sizes))]
    half = write_json(tmp_path / "half.json", json.loads((house / "train_id.json").read_text())[:20])
    pretraining = {**SETTINGS, **TOWERS, "data_cfg": {"train": [
        group("pt_contra%tva%tv%ta_caption%tva%tv%ta", dataset(house, "valor", "train"), dataset(house, "more", "train")),
        group("pt_contra%tv_caption%tv_mlm%tv", {**dataset(house, "half", "train"), "ids_path": str(half)}, epoch=2)], "val": []}}
    config = write_json(tmp_path / "pretrain.json", pretraining)
    first = run_program(["--config", str(config), *small, "--output_dir", str(tmp_path / "run"), "--local-rank=0"])
    assert first.status == 0, first.text
    assert "without effect, as in the released VALOR: speech" in first.text
    rows = read_jsonl(tmp_path / "run" / "log" / "metrics.jsonl")
    # Of 80 clips 5 whole batches of 16; of 20 one, twice.
    assert sorted(row["corpus"] for row in rows) == ["half"] * 2 + ["valor_more"] * 5

    release = tmp_path / "VALOR-tiny"
    state = read_state_dict(tmp_path / "run" / "ckpt" / "model_step_7.pt")
    (release / "ckpt").mkdir(parents=True)
    torch.save({f"module.{NAMES.released(name)}": tensor for name, tensor in state.items()}, release / "ckpt" / "model_step_7.pt")
    torch.save({"other": torch.zeros(1)}, release / "ckpt" / "model_step_9.pt")
    write_json(release / "log" / "hps.json", {**pretraining, "local_rank": 0, "video_sample_num": 2, "audio_sample_num": 1,
                                              "valid_steps": 3, "fineweight_type": "none", "dropout": 0.1})
    tuning = write_json(tmp_path / "tune.json", {**SETTINGS, "contra_type": "fine", "data_cfg": {
        "train": [group("qa%tva%tv", dataset(house, "qa", "train", "txt_mapper_vqa.json"))],
        "val": [val(house, "ret", "ret%tva%tv"), val(house, "qa", "qa%tva", "txt_mapper_vqa.json", answer_candidate="a.json"),
                val(house, "cap", "cap%tva", annfile=str(house / "caption_annotation.json"))]}})
    tune = ["--config", str(tuning), *small, "--pretrain_dir", str(release), "--pretrain_step", "7", "--test_video_sample_num", "4",
            "--train_epoch", "1", "--test_batch_size", "12", "--train_id", str(half)]
    second = run_program([*tune, "--output_dir", str(tmp_path / "tuned"), "--save_best", "true", "--valid_freq", "1"])
    assert second.status == 0, second.text
    assert "contra_type is 'coarse' (str), as the pretrained run has it" in second.text
    assert [row["corpus"] for row in read_jsonl(tmp_path / "tuned" / "log" / "metrics.jsonl")] == ["qa"]
    assert read_state_dict(tmp_path / "tuned" / "ckpt" / "model_step_1.pt").keys() == state.keys()
    tuned = tmp_path / "tuned" / "ckpt" / "model_step_1.pt"
    third = run_program([*tune, "--output_dir", str(tmp_path / "test"), "--checkpoint", str(tuned), "--zero_shot"])
    assert third.status == 0, third.text
    found = results(tmp_path / "test" / "results" / "step_0")
    assert found.keys() == {"cap.cap", "qa.qa", "ret.ret"} and found == results(tmp_path / "tuned" / "results" / "step_1")
