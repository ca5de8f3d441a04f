"""Labelling: what is written, what a second run does, and what refuses to go on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from omnivast.config.schema import Config, DataConfig, DatasetConfig, ModelConfig, RunConfig
from omnivast.config.tasks import CaptionKind, Task
from omnivast.data.annotations.load import load_annotations
from omnivast.data.batch import Batch
from omnivast.evaluation.captions.labelling import LabellingError, label
from omnivast.evaluation.run import evaluate, precision_begun
from omnivast.model.interface import Model
from omnivast.utils.files import sha256_file
from tests.media_factory import write_json

WEIGHTS = {"checkpoint": "model.pt", "checkpoint_sha256": "aa", "config_hash": "cc"}


class Captioner(Model):
    """Captions that tell the clip, the group and the draws; counts how often it labelled each clip."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.labelled: list[int] = []
        self.silent: set[int] = set()

    def encode(self, batch, modalities):
        assert not torch.is_grad_enabled()
        return batch.index.tolist()

    def memory(self, features):
        self.labelled += features
        return features

    def sample_captions(self, memory, group, *, draws):
        assert draws.shape == (len(memory), 3, 7)
        return [["" if row in self.silent else f"{group} of {row} {value:.6f}" for value in own[:, 0].tolist()]
                for row, own in zip(memory, draws)]

    def best_captions(self, memory, group, *, beam_size, max_length, length_penalty):
        return [[f"beam {n} of {row}" for n in range(beam_size)] for row in memory]


class Clips:
    """An EvalLoader's interface over a list of ids; ``broken`` clips cannot be read, and after ``stop`` clips comes the end."""

    def __init__(self, txt: Path, task: str = "cap%tv", batch_size: int = 4, **config: object) -> None:
        self.name, self.task, self.batch_size = "own", Task.parse(task), batch_size
        self.config = DatasetConfig(name="own", task=task, txt=str(txt), batch_size=batch_size, vision_sample_num=2, **config)
        self.clip_ids = load_annotations(txt, self.task, training=False, captions_optional=True).ids()
        self.clips = len(self.clip_ids)
        self.provenance = {"split_file": str(txt), "split_sha256": sha256_file(txt), "clips": self.clips, "texts": 0, "unreadable": []}
        self.broken: set[int] = set()
        self.stop = 1000

    def batches(self, rows):
        for start in range(0, len(rows), self.batch_size):
            own = rows[start:start + self.batch_size]
            if start + len(own) > self.stop:
                raise KeyboardInterrupt
            good = [row for row in own if row not in self.broken]
            batch = Batch("own", [self.clip_ids[row] for row in good], torch.tensor(good, dtype=torch.long))
            batch.unreadable = [(self.clip_ids[row], "not a video") for row in own if row in self.broken]
            yield batch


def settings(seed: int = 1, max_caption_len: int = 7, **run: object) -> Config:
    return Config(RunConfig(**{"mode": "testing", "seed": seed, "captioner_mode": True, "generate_nums": 3, **run}),
                  ModelConfig(max_caption_len=max_caption_len), DataConfig())


@pytest.fixture
def ids(tmp_path):
    return write_json(tmp_path / "meta.json", [f"clip{n}" for n in range(10)])


def run(folder, loader, model=None, config=None, weights=WEIGHTS):
    return label(model or Captioner(), [loader], config or settings(), folder=folder, provenance=weights)


def labels(folder):
    return json.loads((folder / "own" / "labels.json").read_text())


def test_the_labels_are_an_annotation_file_in_the_order_of_the_list(tmp_path, ids):
    assert run(tmp_path / "out", Clips(ids)) == {"own.labelled": 10, "own.unreadable": 0}
    found = labels(tmp_path / "out")
    assert [row["clip_id"] for row in found] == [f"clip{n}" for n in range(10)]
    assert all(len(set(row["vision_cap"])) == 3 and row["vision_cap"][0].startswith(f"tv of {n} ") for n, row in enumerate(found))
    read = load_annotations(tmp_path / "out" / "own" / "labels.json", Task.parse("cap%tv"), training=True)
    assert read[4].captions == {CaptionKind.VISION: found[4]["vision_cap"]}
    header = json.loads((tmp_path / "out" / "own" / "protocol.json").read_text())
    assert header["protocol"]["checkpoint_sha256"] == "aa" and header["protocol"]["config_hash"] == "cc"
    assert header["settings"]["run_cfg"]["seed"] == 1 and header["protocol"]["generate_nums"] == 3


def test_one_field_per_group_beside_what_the_list_says(tmp_path):
    rows = [{"video_id": "a", "subtitle": "hello", "audio_cap": "old", "desc": "kept", "extra": 1}, {"video_id": 7, "subtitle": ""}]
    txt = write_json(tmp_path / "meta.json", [{k: v for k, v in row.items() if k != "extra"} for row in rows])
    loader = Clips(txt, "cap%tv%ta", ignore_fields=["extra"])
    write_json(txt, rows)
    loader.provenance["split_sha256"] = sha256_file(txt)
    run(tmp_path / "out", loader)
    first, second = labels(tmp_path / "out")
    assert set(first) == {"video_id", "subtitle", "desc", "vision_cap", "audio_cap"} and first["desc"] == "kept"
    assert first["audio_cap"][0].startswith("ta of 0") and set(second) == {"video_id", "subtitle", "vision_cap", "audio_cap"}
    assert first["audio_cap"][0].split()[-1] != first["vision_cap"][0].split()[-1]  # other draws
    read = load_annotations(tmp_path / "out" / "own" / "labels.json", Task.parse("cap%tvs%tv%ta"), training=True,
                            captions_optional=True)
    assert read[1].clip_id == "7" and set(read[0].captions) == set(CaptionKind)
    # A group of several modalities writes the omni caption, in place of an older one.
    run(tmp_path / "omni", Clips(tmp_path / "out" / "own" / "labels.json", "cap%tvas"))
    assert labels(tmp_path / "omni")[0].keys() == {"video_id", "subtitle", "vision_cap", "audio_cap", "vast_cap"}


def test_the_labels_depend_neither_on_the_batch_size_nor_on_the_other_clips(tmp_path, ids):
    run(tmp_path / "out", Clips(ids))
    for size in (1, 3, 10):
        run(tmp_path / f"by{size}", Clips(ids, batch_size=size))
        assert labels(tmp_path / f"by{size}") == labels(tmp_path / "out")
    run(tmp_path / "seed", Clips(ids), config=settings(seed=2))
    assert labels(tmp_path / "seed") != labels(tmp_path / "out")


@pytest.mark.parametrize("torn", [b"", b'{"clip_id": "clip9", "vision_ca', '{"clip_id": "clip9", "vision_cap": ["é'.encode()[:-1]])
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, ids, torn):
    run(tmp_path / "unbroken", Clips(ids))
    model, first = Captioner(), Clips(ids, batch_size=2)
    first.stop = 6
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", first, model)
    assert model.labelled == [0, 1, 2, 3, 4, 5] and not (tmp_path / "out" / "own" / "labels.json").exists()
    part = tmp_path / "out" / "own" / "part_00000.jsonl"
    # Another process of the killed run had labelled a clip, and was writing the next.
    (part.parent / "part_00005.jsonl").write_bytes(b'{"clip_id": "clip8", "vision_cap": ["by another"]}\n' + torn)
    with part.open("ab") as file:
        file.write(torn)
    assert run(tmp_path / "out", Clips(ids), model) == {"own.labelled": 10, "own.unreadable": 0}
    assert model.labelled[6:] == [6, 7, 9]
    wanted = labels(tmp_path / "unbroken")
    wanted[8] = {"clip_id": "clip8", "vision_cap": ["by another"]}
    assert labels(tmp_path / "out") == wanted
    assert run(tmp_path / "out", Clips(ids), model)["own.labelled"] == 10 and len(model.labelled) == 9


def test_unreadable_clips_are_listed_and_tried_again(tmp_path, ids):
    model, loader = Captioner(), Clips(ids)
    loader.broken, model.silent = {0, 1, 2, 3, 7}, {5}
    assert run(tmp_path / "out", loader, model) == {"own.labelled": 4, "own.unreadable": 5, "own.without_words": 1}
    listed = json.loads((tmp_path / "out" / "own" / "unreadable.json").read_text())
    assert [(entry["clip_id"], entry["reason"]) for entry in listed] == [
        *((f"clip{n}", "not a video") for n in range(4)), ("clip7", "not a video")]
    wordless = tmp_path / "out" / "own" / "without_words.json"
    assert [entry["clip_id"] for entry in json.loads(wordless.read_text())] == ["clip5"]
    assert [row["clip_id"] for row in labels(tmp_path / "out")] == ["clip4", "clip6", "clip8", "clip9"]
    loader.broken, model.silent, model.labelled = {7}, set(), []
    assert run(tmp_path / "out", loader, model) == {"own.labelled": 9, "own.unreadable": 1}
    assert model.labelled == [0, 1, 2, 3, 5] and not wordless.exists()


@pytest.mark.parametrize(("change", "words"), [
    ({"weights": {**WEIGHTS, "checkpoint_sha256": "bb"}}, 'checkpoint_sha256: "aa", now "bb"'),
    ({"config": settings(seed=2)}, "run_cfg.seed: 1, now 2"),
    ({"config": settings(generate_nums=2)}, "run_cfg.generate_nums: 3, now 2"),
    ({"config": settings(generate_by="beam")}, 'run_cfg.generate_by: "sample", now "beam"'),
])
def test_other_settings_are_refused(tmp_path, ids, change, words):
    run(tmp_path / "out", Clips(ids))
    with pytest.raises(LabellingError, match="choose another --output_dir") as error:
        run(tmp_path / "out", Clips(ids), **change)
    assert words in str(error.value) and str(tmp_path / "out") in str(error.value)
    lines = str(error.value).splitlines()
    assert len(lines) == (4 if "beam" in words else 3)  # with beam search, the number of beams is new as well


def test_another_list_or_another_group_is_refused(tmp_path, ids):
    run(tmp_path / "out", Clips(ids))
    with pytest.raises(LabellingError, match="data_cfg.task: \"cap%tv\", now \"cap%ta\""):
        run(tmp_path / "out", Clips(ids, "cap%ta"))
    write_json(ids, ["clip0"])
    with pytest.raises(LabellingError, match="clips_sha256"):
        run(tmp_path / "out", Clips(ids))


def test_labels_of_older_versions_are_continued_with_the_same_settings(tmp_path, ids):
    def computed_in(precision):
        return Config(dataclasses.replace(settings().run_cfg, precision=precision), settings().model_cfg, settings().data_cfg)

    run(tmp_path / "out", Clips(ids), config=computed_in("bf16"))
    file = tmp_path / "out" / "own" / "protocol.json"
    header = json.loads(file.read_text())
    header["settings"]["run_cfg"] = {"seed": 1, "bf16": True, "fp16": False}
    header["settings"]["model_cfg"] |= {"generate_nums": 3, "generate_by": "sample"}
    file.write_text(json.dumps(header))
    assert run(tmp_path / "out", Clips(ids), config=computed_in("bf16"))["own.labelled"] == 10
    # What auto takes on a machine that would choose another.
    assert precision_begun(settings(output_dir=str(tmp_path)), [Clips(ids)], None) is None
    (tmp_path / "results").symlink_to(tmp_path / "out")
    assert precision_begun(settings(output_dir=str(tmp_path)), [Clips(ids)], None) == "bf16"
    with pytest.raises(LabellingError, match='run_cfg.precision: "bf16", now "float32"'):
        run(tmp_path / "out", Clips(ids), config=computed_in("float32"))
    header["settings"]["model_cfg"] |= {"generate_nums": 2}
    file.write_text(json.dumps(header))
    with pytest.raises(LabellingError, match="run_cfg.generate_nums: 2, now 3"):
        run(tmp_path / "out", Clips(ids), config=computed_in("bf16"))


def test_what_does_not_change_a_caption_may_change(tmp_path, ids):
    run(tmp_path / "out", Clips(ids))
    moved = shutil.copy(ids, tmp_path / "moved.json")
    loader = Clips(Path(moved), batch_size=2, n_workers=3)
    assert run(tmp_path / "out", loader, config=settings(beam_size=7, itm_rerank_num=1))["own.labelled"] == 10


def test_fewer_captions_than_asked_for_are_told(tmp_path, ids, caplog):
    model = Captioner()
    draw = model.sample_captions
    model.sample_captions = lambda memory, group, *, draws: [[*texts[:2], " "] if row in (3, 5) else texts
                                                             for row, texts in zip(memory, draw(memory, group, draws=draws))]
    with caplog.at_level("WARNING"):
        run(tmp_path / "out", Clips(ids), model)
    assert [len(row["vision_cap"]) for row in labels(tmp_path / "out")] == [3, 3, 3, 2, 3, 2, 3, 3, 3, 3]
    assert "own: 2 clips, the first 'clip3', have fewer captions than the 3 asked for (generate_nums)" in caplog.text


def test_beam_search_writes_the_best_texts(tmp_path, ids):
    config = settings(generate_by="beam", beam_size=5)
    run(tmp_path / "out", Clips(ids), config=config)
    assert labels(tmp_path / "out")[2]["vision_cap"] == ["beam 0 of 2", "beam 1 of 2", "beam 2 of 2"]


def test_a_list_that_changed_meanwhile_is_not_merged(tmp_path, ids):
    loader = Clips(ids)
    write_json(ids, ["clip5"])
    with pytest.raises(LabellingError, match="was changed while its clips were labelled"):
        run(tmp_path / "out", loader)


def test_evaluation_labels_in_captioner_mode(tmp_path, ids):
    model = Captioner().train()
    found = evaluate(model, [Clips(ids)], settings(), folder=tmp_path / "out", provenance=dict(WEIGHTS))
    assert found == {"own.labelled": 10, "own.unreadable": 0} and model.training


def test_labels_from_before_a_setting_go_on(tmp_path, ids):
    run(tmp_path / "out", Clips(ids))
    header = tmp_path / "out" / "own" / "protocol.json"
    content = json.loads(header.read_text())
    del content["settings"]["data_cfg"]["audio_backend"]
    header.write_text(json.dumps(content))
    assert run(tmp_path / "out", Clips(ids)) == {"own.labelled": 10, "own.unreadable": 0}
    content["settings"]["data_cfg"]["audio_backend"] = "librosa"
    header.write_text(json.dumps(content))
    with pytest.raises(LabellingError, match='data_cfg.audio_backend: "librosa", now "native"'):
        run(tmp_path / "out", Clips(ids))
