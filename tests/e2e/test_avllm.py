"""The Audio-Visual LLM by run.py: captions, questions and conversations about OmniStamps clips, in two stages, resumed and tested."""

import json
import shutil

import pytest
import torch

from omnivast.utils.log import read_jsonl
from tests.e2e.program import ROOT, results
from tests.media_factory import write_json
from tests.model.avllm.tiny import make_llm

TRACKS = {"vision": "v", "audio": "a", "vision_audio": "va"}
READ = {"vision_sample_num": 2, "audio_sample_num": 2, "batch_size": 6, "n_workers": 0}


@pytest.fixture(scope="module")
def recipe(clips, tmp_path_factory):
    """A config whose datasets are a corpus of captions, one of questions, and one of conversations about sight, sound and both."""
    folder = tmp_path_factory.mktemp("avllm")
    made = json.loads((ROOT / "config" / "debug" / "tiny.json").read_text())
    model = {key: value for key, value in made["model_cfg"].items() if key.startswith(("vision_", "audio_", "pretrained"))}
    model |= {"model_type": "avllm", "llm": make_llm(folder / "llm"), "llm_context": 256, "max_answer_len": 4, "max_caption_len": 6}
    asked = json.loads((clips.folder / "qa_train.json").read_text())
    rows = [{"video_id": row["video_id"], "question": row["question"], "answer": row["answer"], "modality": TRACKS[row["question_type"]]}
            for row in asked if row["question_type"] in TRACKS]
    media = {"vision": str(clips.folder / "clips"), **READ}

    def dataset(name, task, txt, **more):
        return {"name": name, "task": task, "txt": str(txt), **media, **more}

    config = {
        "run_cfg": {"learning_rate": 1e-3, "num_threads": 1, "valid_freq": 0, "precision": "float32", "save_best": False},
        "model_cfg": model,
        "data_cfg": {
            "train": [dataset("caps", "cap%tva%tv%ta", clips.folder / "pretrain_train.json", steps=2),
                      dataset("asked", "qa%tva", clips.folder / "qa_train.json", steps=1),
                      dataset("chats", "chat%tva", write_json(folder / "chat.json", rows), steps=3)],
            "val": [dataset("cap", "cap%tva%ta", clips.folder / "cap_test.json", annfile=str(clips.folder / "cap_test_references.json")),
                    dataset("qa", "qa%tva", clips.folder / "qa_test.json")]}}
    return ["--config", str(write_json(folder / "avllm.json", config))]


def test_two_stages_train_resume_and_are_tested(recipe, run_program, tmp_path):
    """The second goes on from the first, learns adapters, and reads features kept by the first; resumed it ends the same, to the bit."""
    features = ["--features_dir", str(tmp_path / "features")]
    one = run_program([*recipe, *features, "--output_dir", str(tmp_path / "one"), "--data_cfg.val", "[]"])
    assert one.status == 0, one.text
    kept = sorted((tmp_path / "features").rglob("*.safetensors"))
    assert kept and "are computed once and kept" in one.text
    losses = [row["loss"] for row in read_jsonl(tmp_path / "one" / "log" / "metrics.jsonl")]
    assert len(losses) == 6 and not any(name.startswith("llm.") for name in
                                        torch.load(tmp_path / "one" / "ckpt" / "model_step_6.pt", weights_only=True))

    lora = [*recipe, *features, "--llm_tune", "lora", "--save_every", "3", "--remove_before_ckpt", "false"]
    two = run_program([*lora, "--pretrain_dir", str(tmp_path / "one"), "--output_dir", str(tmp_path / "two")])
    assert two.status == 0, two.text
    assert "are computed once and kept" in two.text and set(kept) < set((tmp_path / "features").rglob("*.safetensors"))  # those of the test
    shutil.copytree(tmp_path / "two", tmp_path / "again")
    (tmp_path / "again" / "ckpt" / "state_step_6.pt").unlink()
    again = run_program([*lora, "--resume", "true", "--output_dir", str(tmp_path / "again")])
    assert again.status == 0 and "resuming after step 3 of 6" in again.text and "are computed once" not in again.text, again.text
    weights, other = (torch.load(tmp_path / name / "ckpt" / "model_step_6.pt", weights_only=True) for name in ("two", "again"))
    assert weights.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in weights.items())
    assert any(name.endswith("lora_B.default.weight") and bool(tensor.any()) for name, tensor in weights.items())

    tested = run_program([*lora, "--mode", "testing", "--output_dir", str(tmp_path / "test"), "--checkpoint",
                          str(tmp_path / "two" / "ckpt" / "model_step_6.pt")])
    assert tested.status == 0, tested.text
    assert results(tmp_path / "test" / "results") == results(tmp_path / "two" / "results" / "step_6")
    assert results(tmp_path / "test" / "results").keys() == {"cap.cap", "qa.qa"}


def test_another_language_model_is_refused(recipe, run_program, tmp_path):
    short = [*recipe, "--num_train_steps", "1", "--data_cfg.val", "[]"]
    done = run_program([*short, "--output_dir", str(tmp_path / "run")])
    assert done.status == 0, done.text
    other = ["--llm", make_llm(tmp_path / "llm", seed=1), "--pretrain_dir", str(tmp_path / "run")]
    refused = run_program([*short, *other, "--output_dir", str(tmp_path / "other")])
    assert refused.status == 2 and "trained with another language model than model_cfg.llm" in refused.text


def test_towers_of_a_vast_serve(recipe, clips, run_program, tmp_path):
    trained = run_program(["--config", "config/debug/tiny.json", *clips.flags(("train",)), "--output_dir", str(tmp_path / "vast"),
                           "--num_train_steps", "1", "--data_cfg.val", "[]", "--save_best", "false", "--valid_freq", "0"])
    assert trained.status == 0, trained.text
    done = run_program([*recipe, "--num_train_steps", "1", "--data_cfg.val", "[]", "--pretrain_dir", str(tmp_path / "vast"), "--output_dir",
                        str(tmp_path / "run")])
    assert done.status == 0, done.text
    [vast], [own] = ([torch.load(file, weights_only=True) for file in (tmp_path / name / "ckpt").glob("model_step_*.pt")]
                     for name in ("vast", "run"))
    towers = [name for name in own if name.startswith(("vision_encoder.", "audio_encoder."))]
    assert towers and all(torch.equal(own[name], vast[name]) for name in towers)
