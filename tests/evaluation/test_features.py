"""What a retrieval test keeps: files instead of memory, clips encoded again instead of kept, texts that several clips have."""

import json

import numpy as np
import pytest
import torch

from config.tasks import CaptionKind, Modality
from evaluation import features
from evaluation.features import Conditions, FeatureRows, mapped, write_joined
from evaluation.metrics.recall import ranks, reranked_ranks
from evaluation.run import evaluate
from tests.evaluation.fakes import FakeFeatures, FakeLoader, FakeModel, config_of


class HalfModel(FakeModel):
    """Its features are what float16 can hold, so that files change nothing."""

    def embed_clips(self, features, group):
        return super().embed_clips(features, group).half().float()

    def embed_texts(self, texts):
        return super().embed_texts(texts).half().float()


def run(folder, loader, model, **model_cfg):
    evaluate(model, [loader], config_of(**model_cfg), folder=folder, provenance={})
    return json.loads((folder / f"{loader.name}.ret.json").read_text())


BOTH = {"itm_rerank_num": 4, "ret_bidirection_evaluation": True, "dual_softmax_evaluation": True}


def test_features_in_files_give_the_results_of_those_in_memory(tmp_path):
    in_memory = run(tmp_path / "memory", FakeLoader("ret%tv%ta%tvas", kinds=True), HalfModel(), **BOTH)
    on_disk = run(tmp_path / "disk", FakeLoader("ret%tv%ta%tvas", kinds=True), HalfModel(), ret_features_dir=str(tmp_path / "kept"), **BOTH)
    assert on_disk["predictions"] == in_memory["predictions"] and on_disk["metrics"] == in_memory["metrics"]
    assert (in_memory["protocol"]["features"], on_disk["protocol"]["features"]) == ("float32 in memory", "float16 on disk")
    assert list((tmp_path / "kept").iterdir()) == []  # They go with the test.


def test_rounding_to_float16_is_as_small_as_stated(tmp_path):
    rng = np.random.default_rng(0)
    rows = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(400, 512))).float(), dim=-1)
    kept = FeatureRows(tmp_path / "rows")
    for part in rows.split(150):
        kept.append(part)
    half = torch.from_numpy(np.array(kept.read())).float()
    assert float((half @ half.T - rows @ rows.T).abs().max()) < 2**-10


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 0, 3, 1, 4, 2]])
def test_files_of_several_processes_are_joined_in_any_order(tmp_path, monkeypatch, order):
    monkeypatch.setattr(features, "ROWS_AT_ONCE", 2)
    rows = torch.arange(12, dtype=torch.float32).view(6, 2)
    parts = [FeatureRows(tmp_path / str(n)) for n in range(3)]
    parts[0].append(rows[:4])
    parts[2].append(rows[4:])  # The second process had no clip.
    path = write_joined(parts, np.array(order), tmp_path / "all")
    assert path == tmp_path / "all" and np.array_equal(mapped(path, 6, 2), rows[order].numpy())
    alone = FeatureRows(tmp_path / "alone")
    alone.append(rows)
    own = write_joined([alone], np.array(order), tmp_path / "other")
    assert own == (alone.path if order == sorted(order) else tmp_path / "other")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="ret_features_dir: '.*file/x' cannot hold the features"):
        run(tmp_path, FakeLoader("ret%tv"), FakeModel(), ret_features_dir=str(tmp_path / "file" / "x"))


CLIP_BYTES = 2 * 12 * 4
"""Condition features of a clip and modality in the fake."""


@pytest.mark.parametrize("kept", [0, 7, 14, 23])
def test_clips_that_do_not_fit_are_encoded_again(tmp_path, kept):
    settings = {"itm_rerank_num": 5, "ret_bidirection_evaluation": True}
    expected = run(tmp_path / "all", FakeLoader("ret%tv%tva_cap%tvas", batch_size=7), FakeModel(), **settings)
    model = FakeModel()
    limit = 2 * CLIP_BYTES * (kept + 6) / 1e9 if kept < 23 else None  # Two modalities; less than another whole batch beside those kept.
    found = run(tmp_path / "few", FakeLoader("ret%tv%tva_cap%tvas", batch_size=7), model, rerank_memory_gb=limit, **settings)
    assert found["predictions"] == expected["predictions"] and found["metrics"] == expected["metrics"]
    assert model.encoded_clips == 23 + (23 - kept)
    words = found["protocol"]["condition_features"]
    assert words.startswith(f"kept of {kept} clips") and (f"{23 - kept} clips encoded again" in words) == (kept < 23)


def test_only_batches_with_a_wanted_clip_are_encoded_again():
    conditions = Conditions([Modality.VISION], limit=3 * CLIP_BYTES)
    whole = torch.arange(9 * 24, dtype=torch.float32).view(9, 2, 12)
    for rows in ([0, 1], [4, 5], [6], [7, 8], [9, 11]):  # 2, 3 and 10 could not be read.
        conditions.add(rows, FakeFeatures({Modality.VISION: whole[: len(rows)] + rows[0], Modality.AUDIO: whole}), None)
    wanted = np.array([False, True, False, False, True, False, False, True, False])
    asked = []

    def again(rows, modalities):
        asked.append((rows, modalities))
        for part in (rows[:2], rows[2:]):
            yield part, FakeFeatures({Modality.VISION: whole[: len(part)] + part[0]})

    chunks = list(conditions.chunks(wanted, again))
    assert asked == [([6, 9, 11], (Modality.VISION,))] and list(chunks[0].condition) == [Modality.VISION]
    assert conditions.places(wanted).tolist() == [0, 1, -1, -1, 2, -1, -1, 3, 4]
    joined = torch.cat([chunk.condition[Modality.VISION] for chunk in chunks])
    assert torch.equal(joined[0], whole[0]) and torch.equal(joined[2], whole[0] + 6) and torch.equal(joined[4], whole[0] + 11)
    assert (conditions.clips_kept, conditions.clips_again) == (2, 3)


@pytest.mark.parametrize("given", [[6, 9], [6], [9, 11]])
def test_a_clip_that_cannot_be_read_again_is_an_error(given):
    conditions = Conditions([Modality.VISION], limit=0)
    conditions.add([6, 9, 11], FakeFeatures({Modality.VISION: torch.zeros(3, 2, 12)}), None)
    missing = next(row for row in (6, 9, 11) if row not in given)
    found = [(given, FakeFeatures({Modality.VISION: torch.zeros(len(given), 2, 12)}))]
    with pytest.raises(RuntimeError, match=f"annotation row {missing} could be read at first, but not again"):
        list(conditions.chunks(np.ones(3, bool), lambda *_: iter(found)))
    with pytest.raises(ValueError, match="3 clips are needed, but were not kept"):
        conditions.chunks(np.ones(3, bool), None)


def test_memory_is_shared_out_among_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert features.share_of_memory(2.0) == 500_000_000
    monkeypatch.setattr(features, "free_memory", lambda: 800)
    assert features.share_of_memory(None) == 100
    monkeypatch.undo()
    assert 1 << 20 < features.free_memory() < 1 << 50


def test_pairs_that_are_also_right():
    """By hand: text 1 is also clip 0's, text 2 also clips 0's and 1's."""
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.3, 0.4], [0.7, 0.9, 0.9]])
    numbers, also = np.arange(3), np.array([[1, 0], [2, 0], [2, 1]])
    assert ranks(scores, numbers, numbers).tolist() == [1, 3, 2]
    assert ranks(scores, numbers, numbers, also).tolist() == [1, 1, 1]
    top, second = np.array([[0, 2], [0, 2], [1, 2]]), np.array([[0.1, 0.2], [0.1, 0.2], [0.5, 0.5]])
    first = ranks(scores, numbers, numbers)
    assert reranked_ranks(first, top, second, numbers, numbers).tolist() == [2, 3, 2]
    assert reranked_ranks(ranks(scores, numbers, numbers, also), top, second, numbers, numbers, also).tolist() == [2, 2, 1]


class SharedLoader(FakeLoader):
    """Clips 1, 4 and 8 have one caption in common, word for word."""

    def captions_of(self, clip):
        return [*super().captions_of(clip), *(["someone speaks"] if clip in (1, 4, 8) else [])]


def test_a_text_of_several_clips_is_right_with_any_of_them_when_asked(tmp_path, monkeypatch):
    from evaluation.metrics import recall

    monkeypatch.setattr("evaluation.search.SCORES_AT_ONCE", 23 * 4)  # Several chunks of queries.
    loader, settings = SharedLoader("ret%tva"), {"itm_rerank_num": 6, "ret_bidirection_evaluation": True}
    own = run(tmp_path / "own", loader, FakeModel(), **settings)
    anyone = run(tmp_path / "any", loader, FakeModel(), ret_shared_texts=True, **settings)
    assert own["protocol"]["texts_of_several_clips"] == anyone["protocol"]["texts_of_several_clips"] == 3
    assert own["protocol"]["right"] != anyone["protocol"]["right"]
    batch = loader.batch(loader.own)
    model = FakeModel().eval()
    with torch.no_grad():
        group = loader.task.all_groups[0]
        texts = batch.captions[CaptionKind.OMNI]
        scores = (model.embed_texts(texts) @ model.embed_clips(model.encode(batch, tuple(Modality)), group).T).numpy()
    true = np.array([[clip == row or text in loader.captions_of(clip) for clip in range(23)]
                     for text, row in zip(texts.raw, texts.clip.tolist())])

    def plain(table, right):
        return [1 + int(((row >= row[r].max()) & ~r).sum()) for row, r in zip(table, right)]

    assert [e["tva"]["itc_rank"] for e in anyone["predictions"]] == plain(scores, true)
    assert [e["tva"]["itc_v2t_rank"] for e in anyone["predictions"]] == [plain(scores.T, true.T)[row] for row in texts.clip.tolist()]
    assert [e["tva"]["itc_rank"] for e in own["predictions"]] == recall.ranks(scores, texts.clip.numpy(), np.arange(23)).tolist()
    changed = [e["text"] for e, other in zip(own["predictions"], anyone["predictions"]) if e["tva"]["itm_rank"] != other["tva"]["itm_rank"]]
    assert changed and set(changed) == {"someone speaks"}

