"""The evaluators and evaluate() with a fake model: dense references, batch sizes, processes, files."""

import json

import numpy as np
import pytest
import torch

import omnivast
from omnivast.config.tasks import CaptionKind, Group, Modality
from omnivast.evaluation.metrics import recall
from omnivast.evaluation.retrieval.matching import PairMatcher, pair_batches
from omnivast.evaluation.run import evaluate
from omnivast.model.interface import Rows
from tests.evaluation.fakes import FakeLoader, FakeModel, config_of

EVERYTHING = "ret%tv%ta%tvas_cap%tv%tvas_qa%tva"


def run(folder, loader, model=None, **run_cfg):
    metrics = evaluate(model or FakeModel(), [loader], config_of(**run_cfg), folder=folder, provenance={"checkpoint": "toy.pt"})
    return metrics, {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def without_protocol(results):
    return {name: {key: part for key, part in result.items() if key != "protocol"} for name, result in results.items()}


def test_results_do_not_depend_on_the_batch_size(tmp_path):
    expected = None
    for batch_size in (1, 7, 100):
        found = run(tmp_path / str(batch_size), FakeLoader(EVERYTHING, batch_size=batch_size, kinds=True), itm_rerank_num=5,
                    ret_bidirection_evaluation=True)
        found = found[0], without_protocol(found[1])
        expected = expected or found
        assert found == expected


def test_each_clip_is_encoded_once_and_each_text_embedded_once(tmp_path):
    model, loader = FakeModel(), FakeLoader(EVERYTHING, batch_size=7)
    model.train()
    run(tmp_path, loader, model, itm_rerank_num=3)
    assert model.encoded_clips == loader.clips
    # Groups v, a and vas use three caption kinds, which are the same texts here: four batches, four calls.
    assert model.calls.count("embed_texts") == 4
    assert model.training


def dense_reference(model, loader, group, depth):
    """Contrastive scores and, among the first ``depth``, matching margins, pair by pair."""
    model.eval()
    batch = loader.batch(loader.own)
    with torch.no_grad():
        features = model.encode(batch, tuple(Modality))
        texts = batch.captions[group.caption_kind]
        scores = (model.embed_texts(texts) @ model.embed_clips(features, group).T).double().numpy()
        reranked = scores - 10
        for text in range(len(texts)):
            for clip in np.argsort(-scores[text], kind="stable")[:depth]:
                row, length = torch.tensor([clip]), int(texts.mask[text].sum())
                ids = texts.ids[text : text + 1, :length]
                reranked[text, clip] = float(model.match(features, group, ids, torch.ones_like(ids, dtype=torch.bool), row))
    return texts, scores, reranked


@pytest.mark.parametrize("depth", [1, 4, 50])
@pytest.mark.parametrize(("pair_tokens", "memory_tokens"), [(1, 1), (40, 9), (10**6, 10**6)])
def test_reranking_equals_the_dense_reference(tmp_path, monkeypatch, depth, pair_tokens, memory_tokens):
    monkeypatch.setattr(PairMatcher.__init__, "__kwdefaults__", {"pair_tokens": pair_tokens, "memory_tokens": memory_tokens})
    loader = FakeLoader("ret%tv%tvas", batch_size=6, kinds=True)
    metrics, results = run(tmp_path, loader, itm_rerank_num=depth)
    for group in map(Group.parse, ("tv", "tvas")):
        texts, scores, reranked = dense_reference(FakeModel(), loader, group, depth)
        keys, numbers = texts.clip.numpy(), np.arange(loader.clips)
        expected = {"itc": recall.ranks(scores, keys, numbers), "itm": recall.ranks(reranked, keys, numbers)}
        own = [entry for entry in results["toy.ret.json"]["predictions"] if str(group) in entry]
        assert [entry["text"] for entry in own] == texts.raw
        for stage, ranks in expected.items():
            assert [entry[str(group)][f"{stage}_rank"] for entry in own] == ranks.tolist()
            assert metrics[f"toy.ret.{group}.{stage}.r5"] == pytest.approx(100 * np.mean(ranks <= 5))
        best = [loader.clip_ids[c] for c in np.argsort(-reranked[0], kind="stable")[:5]]
        assert own[0][str(group)]["top"] == best
        assert own[0][str(group)]["itc_top"] == [loader.clip_ids[c] for c in np.argsort(-scores[0], kind="stable")[:5]]


def test_video_to_text_equals_the_dense_reference(tmp_path):
    loader = FakeLoader("ret%tva")
    metrics, _ = run(tmp_path, loader, itm_rerank_num=4, ret_bidirection_evaluation=True)
    model, group = FakeModel(), Group.parse("tva")
    texts, scores, _ = dense_reference(model, loader, group, 0)
    keys, numbers = texts.clip.numpy(), np.arange(loader.clips)
    assert metrics["toy.ret.tva.itc_v2t.mean_rank"] == recall.ranks(scores.T, numbers, keys).mean()
    _, _, all_matched = dense_reference(model, loader, group, loader.clips)
    reranked = scores.T - 10
    for clip in range(loader.clips):
        top = np.argsort(-reranked[clip], kind="stable")[:4]
        reranked[clip, top] = all_matched[top, clip]
    assert metrics["toy.ret.tva.itm_v2t.mean_rank"] == recall.ranks(reranked, numbers, keys).mean()


def test_processes_share_the_work_and_find_the_same(tmp_path, monkeypatch):
    """Two processes as two threads that meet in all_gather_objects."""
    import threading

    whole = run(tmp_path / "whole", FakeLoader(EVERYTHING, kinds=True), itm_rerank_num=5)
    local, barrier, slots = threading.local(), threading.Barrier(2), [None, None]

    def gather(value):
        slots[local.rank] = json.loads(json.dumps(value)) if isinstance(value, dict) and not value else value
        barrier.wait(300)
        found = list(slots)
        barrier.wait(300)
        return found

    monkeypatch.setattr("omnivast.utils.distributed.all_gather_objects", gather)
    monkeypatch.setattr("omnivast.utils.distributed.rank", lambda: local.rank)
    monkeypatch.setattr("omnivast.utils.distributed.world_size", lambda: 2)
    monkeypatch.setattr("omnivast.utils.distributed.is_main", lambda: local.rank == 0)
    monkeypatch.setattr("omnivast.utils.distributed.barrier", lambda: None)
    monkeypatch.setattr("torch.is_grad_enabled", lambda: False)
    found, models = {}, [FakeModel(), FakeModel()]

    def work(rank, part):
        local.rank = rank
        loader = FakeLoader(EVERYTHING, batch_size=4, part=part, kinds=True)
        found[rank] = evaluate(models[rank], [loader], config_of(itm_rerank_num=5), folder=tmp_path / "two", provenance={})

    threads = [threading.Thread(target=work, args=(rank, part)) for rank, part in enumerate((slice(0, 12), slice(12, None)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert found[0] == found[1] == whole[0]
    assert [model.encoded_clips for model in models] == [12, 11]
    two = {path.name: json.loads(path.read_text()) for path in (tmp_path / "two").glob("*.json")}
    assert without_protocol(two) == without_protocol(whole[1])


def test_a_clip_seen_by_two_processes_is_an_error():
    from omnivast.evaluation.retrieval.evaluator import _join_clips, _Part

    parts = [_Part(rows=[3, 4], clip_ids=["x", "y"]), _Part(rows=[4], clip_ids=["y"])]
    with pytest.raises(ValueError, match="annotation row 4 was evaluated twice"):
        _join_clips(parts)


def test_result_files_and_flat_metrics(tmp_path):
    metrics, results = run(tmp_path, FakeLoader(EVERYTHING), itm_rerank_num=2)
    assert sorted(results) == ["toy.cap.json", "toy.qa.json", "toy.ret.json"]
    assert next(iter(metrics)) == "toy.ret.tv.itm.r1"
    protocol = results["toy.ret.json"]["protocol"]
    assert protocol["groups"] == ["tv", "ta", "tvas"]
    assert (protocol["rerank_depth"], protocol["frames"], protocol["slices"], protocol["clips"], protocol["texts"]) == (2, 2, 1, 23, 45)
    assert protocol["checkpoint"] == "toy.pt" and protocol["versions"]["torch"] == torch.__version__
    assert protocol["versions"]["omnivast"] == omnivast.__version__
    assert results["toy.cap.json"]["protocol"]["beam_size"] == 3
    assert metrics["toy.cap.tvas.cider"] == results["toy.cap.json"]["metrics"]["tvas"]["cider"]
    assert results["toy.cap.json"]["predictions"][4].keys() == {"clip_id", "references", "tv", "tvas", "scores"}
    assert results["toy.qa.json"]["predictions"][0].keys() == {"clip_id", "question", "answer", "type", "tva"}
    # Each clip has one question answered by red and one by blue, and the fake gives both the same answer.
    assert metrics["toy.qa.tva.accuracy"] == 50.0
    assert metrics["toy.qa.tva.types.seen"] + metrics["toy.qa.tva.types.heard"] == pytest.approx(100.0)


def test_no_condition_features_are_kept_without_reranking(tmp_path):
    model = FakeModel()
    metrics, results = run(tmp_path, FakeLoader("ret%tva"), model, itm_rerank_num=0)
    assert "memory" not in model.calls
    assert next(iter(metrics)) == "toy.ret.tva.itc.r1" and not any(".itm." in name for name in metrics)
    assert results["toy.ret.json"]["predictions"][0]["tva"].keys() == {"itc_rank", "top"}


def test_caption_kinds_make_rows_of_their_own(tmp_path):
    _, results = run(tmp_path, FakeLoader("ret%tv%tvas", kinds=True), itm_rerank_num=0)
    predictions = results["toy.ret.json"]["predictions"]
    assert [set(entry) - {"text", "clip_id"} for entry in (predictions[0], predictions[-1])] == [{"tv"}, {"tvas"}]


def test_missing_texts_are_named(tmp_path):
    loader = FakeLoader("cap%tv")
    del loader.references["clip9"]
    with pytest.raises(ValueError, match="clip 'clip9' has no reference caption"):
        run(tmp_path, loader)
    loader = FakeLoader("ret%tv")
    batch = loader.batch(loader.own)
    batch.captions = {CaptionKind.OMNI: batch.captions[CaptionKind.OMNI]}
    loader.batch = lambda rows: batch
    with pytest.raises(ValueError, match="no vision captions.*it has omni"):
        run(tmp_path, loader)
    with pytest.raises(ValueError, match="more than one dataset named 'toy'"):
        evaluate(FakeModel(), [FakeLoader("ret%tv"), FakeLoader("cap%tv")], config_of(), folder=tmp_path, provenance={})


@pytest.mark.parametrize("budget", [1, 12, 60, 10**6])
def test_pair_batches_cover_every_pair_once_within_the_budget(budget):
    rng = np.random.default_rng(0)
    lengths, rows = rng.integers(3, 9, 90).tolist(), rng.integers(0, 5, 90)
    batches = list(pair_batches(lengths, rows, budget))
    assert sorted(n for batch in batches for n in batch) == list(range(90))
    assert all(len(batch) == 1 or len(batch) * max(lengths[n] for n in batch) <= budget for batch in batches)
    assert all((np.diff(rows[batch]) >= 0).all() for batch in batches)
    assert list(pair_batches([], np.empty(0, dtype=int), budget)) == []


def test_pair_batches_hold_the_same_number_of_texts_per_row():
    rows = np.repeat(np.arange(4), [10, 7, 12, 9])
    batches = list(pair_batches([5] * len(rows), rows, budget=4 * 5 * 3))
    even = [np.unique(rows[batch], return_counts=True)[1].tolist() for batch in batches]
    assert even == [[3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 3], [3], [1, 1]]


class FineModel(FakeModel):
    """Keeps several vectors of each clip and text, scored by the best pairs: no product of one vector with one."""

    pair_numbers = 15

    def index_clips(self, features, group):
        slots = torch.cat([features.condition[m] * torch.tensor([[1.0], [0.5]]) for m in group], 1)
        return Rows({"slots": torch.nn.functional.normalize(slots, dim=-1), "weights": torch.full(slots.shape[:2], 1 / slots.shape[1])})

    def index_texts(self, texts):
        ids = torch.nn.functional.pad(texts.ids, (0, 15 - texts.ids.shape[1]))
        return Rows({"words": torch.nn.functional.normalize(self.words[ids], dim=-1) * (ids > 0)[..., None]})

    def similarity(self, group, texts, clips, by_clip=False):
        assert len(texts) * len(clips) * self.pair_numbers <= max(60, self.pair_numbers)
        best = torch.einsum("tld,csd->tcls", texts["words"], clips["slots"]).amax(2)
        scores = (best * clips["weights"]).sum(-1)
        return scores.T if by_clip else scores


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_similarity_of_several_vectors_is_searched_in_small_blocks(tmp_path, monkeypatch, on_disk):
    monkeypatch.setattr("omnivast.evaluation.retrieval.search.SCORES_AT_ONCE", 60)
    loader = FakeLoader("ret%tva", batch_size=5)
    settings = {"ret_features_dir": str(tmp_path / "kept")} if on_disk else {}
    metrics, results = run(tmp_path / "out", loader, FineModel(), itm_rerank_num=0, ret_bidirection_evaluation=True, **settings)
    model, batch, group = FineModel().eval(), loader.batch(loader.own), Group.parse("tva")
    with torch.no_grad():
        texts, clips = batch.captions[group.caption_kind], model.index_clips(model.encode(batch, tuple(group)), group)
        whole, half = model.index_texts(texts), (lambda x: x.half().float() if on_disk else x)
        scores = np.array([[float((torch.einsum("ld,sd->ls", half(words), half(slots)).amax(0) * half(weights)).sum())
                            for slots, weights in zip(clips["slots"], clips["weights"])] for words in whole["words"]])
    keys, numbers = texts.clip.numpy(), np.arange(loader.clips)
    assert [entry["tva"]["itc_rank"] for entry in results["toy.ret.json"]["predictions"]] == recall.ranks(scores, keys, numbers).tolist()
    assert metrics["toy.ret.tva.itc_v2t.mean_rank"] == recall.ranks(scores.T, numbers, keys).mean()


def test_rows_of_other_shapes_are_refused(tmp_path):
    class Ragged(FakeModel):
        def index_texts(self, texts):
            return Rows({"words": self.words[texts.ids]})

    with pytest.raises(ValueError, match="expected the same of all batches"):
        run(tmp_path, FakeLoader("ret%tva", batch_size=2), Ragged())
