"""What a retrieval test keeps: files instead of memory, clips encoded again instead of kept, texts that several clips have."""

import json

import numpy as np
import pytest
import torch

from omnivast.config.tasks import CaptionKind, Modality
from omnivast.evaluation.metrics.recall import ranks, reranked_ranks
from omnivast.evaluation.retrieval import features
from omnivast.evaluation.retrieval.features import Conditions, Cost, FeatureRows, mapped, reranked_share, write_joined
from omnivast.evaluation.run import evaluate
from omnivast.model.interface import Rows
from tests.evaluation.fakes import FakeFeatures, FakeLoader, FakeModel, config_of


class HalfModel(FakeModel):
    """Its features are what float16 can hold, so that files change nothing."""

    def embed_clips(self, features, group):
        return super().embed_clips(features, group).half().float()

    def embed_texts(self, texts):
        return super().embed_texts(texts).half().float()


def run(folder, loader, model, **run_cfg):
    evaluate(model, [loader], config_of(**run_cfg), folder=folder, provenance={})
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
        kept.append(Rows({"vector": part}))
    half = torch.from_numpy(np.array(kept.read()["vector"])).float()
    assert float((half @ half.T - rows @ rows.T).abs().max()) < 2**-10


class TwinLoader(FakeLoader):
    """Clips 0 to 4 come again as 10 to 14, media and texts."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.sound[10:15] = self.sound[:5]

    def captions_of(self, clip):
        return super().captions_of(clip - 10 if 10 <= clip < 15 else clip)


class BetweenModel(FakeModel):
    """Its features lie in the middle between two numbers of float16, and rounding, which differs from batch to batch, decides."""

    def between(self, rows):
        half = rows.half()
        middle = (half.double() + (half.view(torch.int16) + 1).view(torch.float16).double()) / 2
        noise = 1e-7 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(1000 * len(self.calls) + len(rows)))
        return (middle + noise).float()

    def embed_clips(self, features, group):
        return self.between(super().embed_clips(features, group))

    def embed_texts(self, texts):
        return self.between(super().embed_texts(texts))


@pytest.mark.parametrize("on_disk", [False, True])
def test_twins_tie_whatever_the_batch(tmp_path, on_disk):
    settings = {**BOTH, "ret_features_dir": str(tmp_path / "kept") if on_disk else None}
    found = [run(tmp_path / str(size), TwinLoader("ret%tva", batch_size=size), BetweenModel(), **settings)["predictions"]
             for size in (1, 7, 23)]
    assert on_disk or found[0] == found[1] == found[2]
    for predictions in found:
        of = {clip: [entry["tva"] for entry in predictions if entry["clip_id"] == f"clip{clip}"] for clip in range(15)}
        for clip in range(5):
            for own, twin in zip(of[clip], of[clip + 10], strict=True):
                for kind in ("itc", "itc_v2t", "itm", "itm_v2t", "dual_softmax", "dual_softmax_v2t"):
                    assert own[f"{kind}_rank"] == twin[f"{kind}_rank"] >= 2  # The twin is as good, and counts against it.


class SureModel(FakeModel):
    """Its matching probabilities are all 1 in float32."""

    def match(self, *arguments):
        return super().match(*arguments) + 40


def test_sure_pairs_are_told_apart(tmp_path):
    plain = run(tmp_path / "plain", FakeLoader("ret%tva"), FakeModel(), **BOTH)
    sure = run(tmp_path / "sure", FakeLoader("ret%tva"), SureModel(), **BOTH)
    assert sure["predictions"] == plain["predictions"]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 0, 3, 1, 4, 2]])
def test_files_of_several_processes_are_joined_in_any_order(tmp_path, monkeypatch, order):
    monkeypatch.setattr(features, "ROWS_AT_ONCE", 2)
    rows = torch.arange(12, dtype=torch.float32).view(6, 2)
    parts = [FeatureRows(tmp_path / str(n)) for n in range(3)]
    parts[0].append(Rows({"x": rows[:4]}))
    parts[2].append(Rows({"x": rows[4:]}))  # The second process had no clip.
    path = write_joined(parts, np.array(order), tmp_path / "all")
    assert path == tmp_path / "all" and np.array_equal(mapped(path, 6, {"x": (2,)})["x"], rows[order].numpy())
    alone = FeatureRows(tmp_path / "alone")
    alone.append(Rows({"x": rows}))
    own = write_joined([alone], np.array(order), tmp_path / "other")
    assert own == (alone.path if order == sorted(order) else tmp_path / "other")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="ret_features_dir: '.*file/x' cannot hold the features"):
        run(tmp_path, FakeLoader("ret%tv"), FakeModel(), ret_features_dir=str(tmp_path / "file" / "x"))


def vision(features):
    return FakeModel().matching_features(features, [Modality.VISION])


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
    conditions = Conditions([Modality.VISION], vision, limit=3 * CLIP_BYTES)
    whole = torch.arange(9 * 24, dtype=torch.float32).view(9, 2, 12)
    for rows in ([0, 1], [4, 5], [6], [7, 8], [9, 11]):  # 2, 3 and 10 could not be read.
        conditions.add(rows, FakeFeatures({Modality.VISION: whole[: len(rows)] + rows[0], Modality.AUDIO: whole}))
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
    conditions = Conditions([Modality.VISION], vision, limit=0)
    conditions.add([6, 9, 11], FakeFeatures({Modality.VISION: torch.zeros(3, 2, 12)}))
    missing = next(row for row in (6, 9, 11) if row not in given)
    found = [(given, FakeFeatures({Modality.VISION: torch.zeros(len(given), 2, 12)}))]
    with pytest.raises(RuntimeError, match=f"annotation row {missing} could be read at first, but not again"):
        list(conditions.chunks(np.ones(3, bool), lambda *_: iter(found)))
    with pytest.raises(ValueError, match="3 clips are needed, were not kept"):
        conditions.chunks(np.ones(3, bool), None)


def test_what_costs_less_is_done():
    """By hand: 10 s to keep, 10 s for all to come back, 30 s to encode all again."""
    cost = Cost(clips=100, again=30.0, keep=10.0, bytes=2_000_000)
    assert [cost.keeping_pays(share) for share in (1.0, 0.6, 0.5, 0.4, 0.1)] == [True, True, True, False, False]
    assert str(cost) == "0.02 MB a clip, 100 ms to keep and as much to bring back, 300 ms to read and encode again"
    # 2 of 10 clips for each of 3 texts: 8/10 are left out by one, 0.512 by all.
    assert [reranked_share(10, texts, 2) for texts in (0, 1, 3)] == pytest.approx([0.0, 0.2, 0.488]) and reranked_share(5, 1, 50) == 1.0


@pytest.mark.parametrize(("seconds", "kept"), [(0.0, False), (1e6, True)])
def test_the_decision_rests_on_what_was_measured(caplog, seconds, kept):
    conditions, condition = Conditions([Modality.VISION], vision, limit=10**9), torch.ones(32, 2, 12)
    with caplog.at_level("INFO", logger="omnivast"):
        for batch in range(6):  # The first is not measured; the third makes enough.
            rows = list(range(32 * batch, 32 * batch + 32))
            conditions.add(rows, FakeFeatures({Modality.VISION: condition}), 1e6 if batch == 0 else seconds)
            assert len(caplog.messages) == (batch > 1)
    assert (conditions.clips_kept, conditions.bytes) == ((192, 192 * CLIP_BYTES) if kept else (0, 0))
    words = "kept, as far as 1 GB go" if kept else "encoded again"
    assert caplog.messages[0].endswith(f"100 % needed as estimated: {words}") and f"{CLIP_BYTES / 1e6:.3g} MB a clip" in caplog.text


def test_results_are_equal_whichever_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "MEASURED_CLIPS", 10)
    found, encoded = {}, {}
    for pays in (True, False):
        monkeypatch.setattr(Cost, "keeping_pays", lambda *_, pays=pays: pays)
        model = FakeModel()
        found[pays] = run(tmp_path / str(pays), FakeLoader("ret%tv%tva"), model, **BOTH)
        encoded[pays] = model.encoded_clips
    assert encoded == {True: 23, False: 46}
    assert found[True]["predictions"] == found[False]["predictions"] and found[True]["metrics"] == found[False]["metrics"]
    words = [found[pays]["protocol"]["condition_features"] for pays in (True, False)]
    assert words[0].startswith("kept of 23 clips") and words[0].endswith("100 % needed as estimated: kept")
    assert words[1].startswith("kept of 0 clips, 0.0 MB; 23 clips encoded again in") and "ms to read and encode again" in words[1]


def test_only_what_will_be_re_ranked_stays():
    """Batches none of whose clips are asked for are let go."""
    conditions = Conditions([Modality.VISION], vision, limit=10**6)
    for start in range(0, 20, 4):
        conditions.add(list(range(start, start + 4)), FakeFeatures({Modality.VISION: torch.full((4, 2, 12), float(start))}))
    wanted = np.isin(np.arange(20), [5, 17])
    assert [float(chunk.condition[Modality.VISION][0, 0, 0]) for chunk in conditions.chunks(wanted, None)] == [4.0, 16.0]
    assert conditions.places(wanted)[[5, 17, 0]].tolist() == [1, 5, -1]


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
    from omnivast.evaluation.metrics import recall

    monkeypatch.setattr("omnivast.evaluation.retrieval.search.SCORES_AT_ONCE", 23 * 4)  # Several chunks of queries.
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

