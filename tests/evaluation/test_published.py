import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from omnivast.config.load import load_config
from omnivast.config.tasks import Task
from omnivast.evaluation import protocol
from omnivast.evaluation import published as benchmarks

ROOT = Path(__file__).resolve().parents[2]


def published(name, **protocol):
    zero_shot = protocol.pop("zero_shot", False)
    row = benchmarks.reference({"dataset": name, **protocol}, zero_shot=zero_shot)
    assert row is not None
    return row.results


@pytest.mark.parametrize("family, number", [("vast", 27), ("valor", 23), ("gram", 6), ("avllm", 8)])
def test_every_recipe_is_a_known_benchmark(family, number):
    """Its splits are checked, then, in training and in tests."""
    recipes = [json.loads(path.read_text())["data_cfg"] for path in (ROOT / "config" / family / "finetune_cfg").glob("*.json")]
    names = {dataset["name"] for recipe in recipes if recipe["val"] for dataset in (*recipe["train"], *recipe["val"])}
    assert len(names) == number and names <= benchmarks.known().keys()


def test_counts_settings_and_results_are_those_of_the_paper():
    shared = ROOT.parent / "shared" / "benchmarks.json"
    if not shared.exists():
        pytest.skip("the paper's tables are not beside the checkout")
    tables = json.loads(shared.read_text())
    suffix = {"retrieval": "ret", "captioning": "cap", "qa": "qa"}
    for section, rows in tables["splits"].items():
        for benchmark, *counts in rows:
            own = next(o for name, o in benchmarks.known().items() if o.name == benchmark and name.endswith(f"_{suffix[section]}"))
            given = [own.splits.get(split, {}).get(what) for what in ("clips", "texts") for split in ("train", "val", "test")]
            if benchmark == "vqav2":
                given[3:5] = [10 * count for count in given[3:5]]
            assert given == counts, benchmark
    recalls = tables["published_vast"]["text_to_video_recall_1_5_10"]["msrvtt"]
    assert published("msrvtt_ret") == dict(zip(("r1", "r5", "r10"), recalls))
    assert published("tv_cap") == tables["published_vast"]["captioning"]["tvc"]
    assert published("didemo_ret", zero_shot=True)["r1"] == 55.5 and benchmarks.reference({"dataset": "tv_cap"}, zero_shot=True) is None


VALOR = json.loads((ROOT / "tests/goldens/benchmarks_valor.json").read_text())
SUFFIX = {"text_to_video_recall_1_5_10": "_ret", "text_to_audio_recall_1_5_10": "_ret", "text_to_image_recall_1_5_10": "_ret",
          "text_to_video_dual_softmax_recall_1_5_10": "_ret", "captioning": "_cap", "qa_accuracy": ""}
OUR_NAMES = {"tgif_frameqa": "tgif_frame_qa", "music_avqa": "music_qa", "vqav2_dev": "vqav2_qa"}


def of_valor():
    """(dataset, model, numbers) of everything that VALOR's paper publishes, and a user of its release."""
    for size, tables in VALOR["published_valor"].items():
        for table, results in tables.items():
            for benchmark, numbers in results.items() if table in SUFFIX else ():
                if benchmark == "vqav2_std":
                    continue
                name = OUR_NAMES.get(benchmark, benchmark.removesuffix("_scst") + SUFFIX[table])
                if table == "qa_accuracy":
                    numbers = {"vqa_accuracy" if benchmark == "vqav2_dev" else "accuracy": numbers}
                elif isinstance(numbers, list):
                    numbers = dict(zip(("r1", "r5", "r10"), numbers))
                note = {"base_vision_only": "without sound", "text_to_video_dual_softmax_recall_1_5_10": "dual softmax"}
                yield name, "VALOR-L" if size == "large" else "VALOR-B", numbers, note.get(size) or note.get(table) or (
                    "self-critical" if benchmark.endswith("_scst") else "")
    for group in ("tv", "tva"):
        yield "msrvtt_ret", "VALOR-B", dict(zip(("r1", "r5", "r10"), VALOR["reported_by_a_user_of_the_release"][group])), "user"


def test_every_published_number_of_valor_is_there_and_no_other():
    wanted = sorted((name, model, json.dumps(numbers)) for name, model, numbers, _ in of_valor())
    there = [(name, row.model.name, json.dumps(row.results)) for name, benchmark in benchmarks.known().items()
             for row in benchmark.published if row.model.model_type == "valor"]
    assert sorted(there) == wanted and len(wanted) == 60
    for name, model, numbers, note in of_valor():
        (row,) = [row for row in benchmarks.known()[name].published if (row.model.name, row.results) == (model, numbers)]
        assert note in row.note and (note or not row.note or name in ("activitynet_qa", "vqav2_qa"))


def test_valors_settings_are_those_of_the_release():
    columns = VALOR["finetuning_columns"]
    suffix = {"retrieval": "_ret", "captioning": "_cap", "qa": ""}
    for kind, ending in suffix.items():
        for cells in (dict(zip(columns, row)) for row in VALOR[kind]):
            base = cells["benchmark"].removesuffix("_scst")
            name, image = OUR_NAMES.get(base, "vqav2_qa" if base == "vqav2" else base + ending), base in ("mscoco", "vqav2")
            rows = [row for row in benchmarks.known()[name].published if row.model.model_type == "valor" and "sound" not in row.note]
            for row in rows:
                settings = dict(row.settings)
                group = settings.pop("group")
                assert ("%t" + group.removeprefix("t")) in cells["test_task"]
                assert settings.pop("resolution", None) == cells["resolution"]
                assert settings.pop("frames", None) == (None if image else cells["test_frames"])
                assert settings.pop("slices", None) == (cells["test_audio_clips"] if "a" in group else None)
                assert settings == {"_ret": {"rerank_depth": 0}, "_cap": {"beam_size": 3}, "": {"beam_size": 1}}[ending]
    splits = VALOR["splits"]["counts"]["valor32k"]
    for name in ("valor32k_ret", "valor32k_cap"):
        assert {split: counts["clips"] for split, counts in benchmarks.known()[name].splits.items()} == splits


def test_grams_numbers_are_those_of_its_release():
    wanted = json.loads((ROOT / "tests/goldens/gram.json").read_text())["published_recall_1"]
    rows = [(name, row) for name, benchmark in benchmarks.known().items() for row in benchmark.published if row.model.name == "GRAM"]
    assert all(row.results.keys() == {"r1"} for _, row in rows) and len(rows) == 7
    plain = {name.removesuffix("_ret"): row.results["r1"] for name, row in rows if not row.note and not row.zero_shot}
    assert plain == wanted["fine_tuned"]
    noted = {("user" in row.note, row.zero_shot): row.results["r1"] for _, row in rows if row.note}
    assert noted == {(True, False): wanted["by_a_user"]["msrvtt"], (False, True): wanted["zero_shot"]["msrvtt_with_depth"]}
    assert published("msrvtt_ret", model_type="gram", zero_shot=True) == {"r1": wanted["zero_shot"]["msrvtt"]}


AVLLM = {"msvd_qa": 67.3, "msrvtt_qa": 53.7, "activitynet_qa": 47.2, "avsd_qa": 52.6, "avssd_qa": 47.6, "music_qa": 45.2}
"""Tables 1 and 2 of the Audio-Visual LLM, right by a judge."""
HEARD = {"clothov1_cap": {"cider": 29.6, "spider": 19.7}, "audiocaps_cap": {"cider": 35.4, "spider": 24.1}}
"""Its Table 3."""


def test_the_audio_visual_llms_numbers_are_those_of_its_tables():
    there = {name: row for name, benchmark in benchmarks.known().items() for row in benchmark.published if row.model.model_type == "avllm"}
    assert {name: row.results for name, row in there.items()} == {**{name: {"judged": value} for name, value in AVLLM.items()}, **HEARD}
    for name, row in there.items():
        assert row.zero_shot and row.settings.get("frames") == (None if name in HEARD else 32)
        assert row.settings.get("slices") == (None if row.settings["group"] == "tv" else 4)
        assert ("judge" in row.settings) is (name in AVLLM) is ("judged" in row.results)
        assert name in HEARD or all("not comparable with exact match" in row.model.protocol[objective] for objective in ("qa", "chat"))


def test_what_a_judge_marked_never_stands_as_accuracy():
    """Of all that was published, and of our own: the protocol's judge gives a number of another name."""
    for benchmark in benchmarks.known().values():
        for row in benchmark.published:
            assert not {"accuracy", "judged"} <= row.results.keys() and ("judge" in row.settings) is ("judged" in row.results)
    own = {"dataset": "msvd_qa", "model_type": "avllm", "groups": ["tv"], "frames": 32, "resolution": 224}
    assert published("msvd_qa", model_type="avllm") == published("msvd_qa", model_type="avllm", zero_shot=True) == {"judged": 67.3}
    metrics = {"tv": {"accuracy": 12.0}}
    assert benchmarks.headline(metrics, own) == ("tv", {"accuracy": 12.0})
    differences = benchmarks.protocol_differences(own)
    assert differences == ["answers marked by exact match alone, published by a GPT whose version is not said: not comparable",
                           "published zero-shot, without training on the benchmark"]
    judged = {**own, "judged": {"tv": {"accuracy": 30.0, "model": "judge-7b"}}}
    assert benchmarks.headline(metrics, judged) == ("tv", {"accuracy": 12.0, "judged": 30.0})
    assert benchmarks.protocol_differences(judged)[0].startswith("answers marked by judge-7b, published by a GPT")
    failed = {**own, "judged": {"tv": {"not_computed": "the judge does not answer"}}}
    assert benchmarks.headline(metrics, failed) == ("tv", {"accuracy": 12.0})
    (row,) = [row for row in benchmarks.others(own) if row.model.model_type == "avllm"]
    assert benchmarks.in_words(row) == "tv, 32 frames, 224 pixels; zero-shot; answers marked by a GPT whose version is not said"


def test_a_benchmark_whose_counts_no_paper_gives_is_not_compared():
    assert benchmarks.benchmark_of("avsd_qa") == "avsd" and benchmarks.compare_split("avsd_qa", 3, 3) is None
    assert benchmarks.compare_split("avssd_qa", 3, 3, training=True) is None


def test_each_family_is_compared_with_its_own_numbers():
    assert published("msrvtt_ret", model_type="valor") == {"r1": 54.4, "r5": 79.8, "r10": 87.6}
    assert published("msrvtt_ret", model_type="gram") == {"r1": 64.0} and published("youcook_ret", model_type="gram")["r1"] == 50.4
    assert [row.model.name for row in benchmarks.others({"dataset": "clothov1_ret", "model_type": "valor"})] == ["VALOR-B", "VAST"]
    own = {"dataset": "msrvtt_ret", "model_type": "valor", "groups": ["tva", "tv"], "frames": 8, "slices": 2, "resolution": 224}
    assert benchmarks.protocol_differences({**own, "rerank_depth": 0}) == []
    assert benchmarks.protocol_differences({**own, "rerank_depth": 50}) == ["rerank depth 50, published 0"]
    metrics = {"tv": {"itc": {"r1": 2.0}}, "tva": {"itc": {"r1": 3.0}}}
    assert benchmarks.headline(metrics, own) == ("tva", {"r1": 3.0})


def test_a_difference_is_reported_with_its_size():
    same = benchmarks.compare_split("msrvtt_ret", 1000, 1000)
    assert same is not None and same["split"] == "test" and same["differences"] == []
    other = benchmarks.compare_split("msrvtt_ret", 990, 1010)
    assert other is not None
    assert other["differences"] == ["990 clips where the paper has 1,000 (-10)", "1,010 texts where the paper has 1,000 (+10)"]
    assert benchmarks.compare_split("youcook_ret", 3492, 3492)["split"] == "val"  # type: ignore[index]
    assert benchmarks.compare_split("my_ret", 1, 1) is None


def _loader(name: str, task: str, clips: int, texts: int, references: int = 0) -> SimpleNamespace:
    ids = [str(n) for n in range(clips)]
    return SimpleNamespace(name=name, task=Task.parse(task), clip_ids=ids, provenance={"texts": texts},
                           references={clip_id: ["x"] * references for clip_id in ids})


def test_the_log_says_which_split_is_not_the_papers(caplog):
    training = SimpleNamespace(corpora=[SimpleNamespace(name="msrvtt_ret", rows=9000), SimpleNamespace(name="my", rows=3)])
    loaders = [_loader("msrvtt_cap", "cap%tv", 2990, 2990, references=20), _loader("msrvtt_ret", "ret%tv", 1000, 900)]
    with caplog.at_level(logging.INFO, logger="omnivast"):
        benchmarks.log_splits(training, loaders)  # type: ignore[arg-type]
    by_level = {record.levelname: record.getMessage() for record in caplog.records if "(training)" not in record.getMessage()}
    assert "59,800 texts, as the test split" in by_level["INFO"] and "900 texts where the paper has 1,000 (-100)" in by_level["WARNING"]
    assert any("msrvtt_ret (training): 9,000 clips, as the train split" in record.getMessage() for record in caplog.records)


def test_protocol_differences_are_named():
    own = {"dataset": "msrvtt_ret", "groups": ["tvas"], "frames": 8, "slices": 1, "resolution": 224, "rerank_depth": 50,
           "unreadable": [["a", "b"]],
           "split_check": {"differences": ["990 clips where the paper has 1,000 (-10)"]}}
    assert benchmarks.protocol_differences(own) == [
        "frames 8, published 16", "990 clips where the paper has 1,000 (-10)", "1 unreadable clips left out"]
    assert benchmarks.protocol_differences({**own, "groups": ["tv"]})[0] == "groups tv, published tvas"


def test_another_family_than_the_published_one_is_named():
    own = {"dataset": "msrvtt_ret", "groups": ["tvas"], "frames": 16, "slices": 1, "resolution": 224, "rerank_depth": 50}
    assert benchmarks.protocol_differences({**own, "model_type": "vast"}) == []
    assert benchmarks.protocol_differences({**own, "model_type": "fake"}) == ["model fake, published vast"]


def test_headline_takes_the_papers_group_and_the_reranked_ranks():
    metrics = {"tv": {"itm": {"r1": 1.0}, "itc": {"r1": 2.0}}, "tvas": {"itm": {"r1": 3.0, "mean_rank": 9.0}}}
    assert benchmarks.headline(metrics, {"groups": ("tv", "tvas"), "dataset": "msrvtt_ret"}) == ("tvas", {"r1": 3.0})
    assert benchmarks.headline(metrics, {"groups": ("tv", "tvas"), "dataset": "flickr_ret"}) == ("tv", {"r1": 1.0})
    assert benchmarks.headline({"ta": {"accuracy": 5.0, "types": {}}}, {"groups": ("ta",)})[1] == {"accuracy": 5.0}


def test_weights_that_loaded_in_part_are_refused_unless_told():
    config = load_config(["--config", str(ROOT / "config/debug/tiny.json")])
    partly = {"checkpoint": "x.pt", "missing_parameters": ["itm_head.linear1.weight"]}
    with pytest.raises(ValueError, match=r"x.pt: 1 parameter.*itm_head.linear1.weight.*--allow_missing"):
        protocol.refuse_partial(partly, config)
    protocol.refuse_partial(partly, replace(config, run_cfg=replace(config.run_cfg, allow_missing=["itm_head."])))
    protocol.refuse_partial({"missing_parameters": []}, config)
