import base64
import io
import json
import re
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from omnivast.evaluation.report import cases, run_files, run_report
from omnivast.evaluation.report.page import sound_of, sound_uri
from tests.scripts.omnistamps.quickstart_tree import make_data, make_results


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    make_data(folder / "data")
    make_results(folder / "run", folder / "data")
    return folder


def _result(objective, predictions, group="tv", **protocol):
    own = {"dataset": "x", "objective": objective, "groups": [group], **protocol}
    return run_report.Result(Path("x.json"), own, {group: {"accuracy": 1.0}}, predictions)


def test_a_training_and_tests_make_one_page_and_its_markdown(tree):
    assert run_report.main([*(str(tree / "run" / name) for name in ("pretrain", "test_ret", "test_cap", "test_qa")), "--cases", "1",
                            "--output", str(tree / "page.html")]) == 0
    page, plain = (tree / "page.html").read_text(), (tree / "page.md").read_text()
    for words in ("Losses on toy", "Learning rate", "By group of modalities", "question type", "Best 1", "Worst 1"):
        assert words in page, words
    assert "300 steps logged" in plain and "At step 300, on toy: total loss" in plain and "### Median 1" in plain
    assert not re.search(r"<script|https?://|@import", page)


def test_files_that_a_run_named_from_its_own_folder_are_found_from_any(tmp_path, monkeypatch, caplog):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.json").write_text('[{"video_id": "a", "subtitle": "said"}]', encoding="utf-8-sig")
    result = _result("cap", [{"clip_id": "a", "tv": "x", "references": ["x"]}], split_file="data/test.json")
    result.path = tmp_path / "output" / "run" / "results" / "x.cap.json"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_report.annotation_rows(result) == {"a": {"video_id": "a", "subtitle": "said"}}
    assert run_files.found_from(result.path, "data") == tmp_path / "data" and run_files.found_from(result.path, "gone") == Path("gone")
    result.protocol["split_file"] = "gone.json"
    assert run_report.annotation_rows(result) == {} and "categories are left out: gone.json: no such split file" in caplog.text


def test_a_folder_that_is_no_run_is_named(tmp_path, caplog):
    assert run_report.main([str(tmp_path)]) == 2 and f"{tmp_path}: expected an output folder" in caplog.text
    (tmp_path / "results").mkdir()
    for content in ('{"protocol": 5}', '{"protocol": {}, "metrics": {"tv": 3}, "predictions": [{"clip_id": "a"}]}', "[" * 200_000, "3"):
        (tmp_path / "results" / "x.ret.json").write_text(content)
        caplog.clear()
        assert run_report.main([str(tmp_path)]) == 2 and len(caplog.messages) == 1 and "x.ret.json" in caplog.text


def test_logs_and_ranks_of_another_form_are_no_traceback(tmp_path, caplog):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "metrics.jsonl").write_text('{"a": 1}\n')
    assert run_report.main([str(tmp_path)]) == 2 and f"{tmp_path}: expected an output folder" in caplog.text
    (tmp_path / "results").mkdir()
    content = {"protocol": {"objective": "ret", "groups": ["tv"]}, "metrics": {"tv": {"itc": {"r1": 1.0}}},
               "predictions": [{"clip_id": "a", "text": "x", "tv": {}}]}
    (tmp_path / "results" / "x.ret.json").write_text(json.dumps(content))
    assert run_report.main([str(tmp_path)]) == 2 and "the prediction of clip 'a' has no rank of group 'tv'" in caplog.text


def test_published_numbers_stand_beside_ours_with_what_differs(tmp_path):
    settings = {"groups": ["tvas"], "frames": 8, "slices": 1, "resolution": 224, "rerank_depth": 50, "dataset": "msrvtt_ret"}
    content = {"protocol": {**settings, "objective": "ret"}, "metrics": {"tvas": {"itm": {"r1": 60.9, "r5": 84.3, "r10": 90.0}}},
               "intervals": {"tvas.itm.r1": [58.04, 63.06], "tvas.itc.r1": [1.0, 2.0]},
               "predictions": [{"text": "a b", "clip_id": "c", "tvas": {"itm_rank": 1, "itc_rank": 2, "top": ["c"]}}]}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "msrvtt_ret.ret.json").write_text(json.dumps(content))
    assert run_report.main([str(tmp_path)]) == 0
    plain = (tmp_path / "report.md").read_text()
    assert "| msrvtt_ret tvas |  |  | VAST |  |" in plain
    assert "| R@1 | 60.9 | 58.0 – 63.1 | 63.9 | -3.0 |" in plain and "| R@5 | 84.3 | – | 84.3 | +0.0 |" in plain
    assert "msrvtt_ret: the protocol differs from the published one: frames 8, published 16." in plain
    assert "**Text to clip, the first 50 re-ranked by the matching score**" in plain
    assert "| group | R@1 | 95 % interval | R@5 | R@10 |\n" in plain  # What no row has is no column.


def test_what_other_models_have_published_stands_below_with_its_protocol(tmp_path):
    content = {"protocol": {"dataset": "msrvtt_ret", "objective": "ret", "groups": ["tva", "tv"], "model_type": "valor"},
               "metrics": {"tva": {"itc": {"r1": 40.0}, "dual_softmax": {"r1": 41.0}}, "tv": {"itc": {"r1": 30.0}}},
               "predictions": [{"text": "a", "clip_id": "c", **{group: {"itc_rank": 1, "top": ["c"]} for group in ("tva", "tv")}}]}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "msrvtt_ret.ret.json").write_text(json.dumps(content))
    assert run_report.main([str(tmp_path)]) == 0
    plain = (tmp_path / "report.md").read_text()
    assert "| msrvtt_ret tva |  |  | VALOR-L |  |\n| R@1 | 40.0 | – | 54.4 | -14.4 |" in plain
    table = plain.split("Published on msrvtt_ret")[1].split("\n\n")[1].splitlines()
    assert table[0] == "| model | R@1 | R@5 | R@10 | protocol |" and table[2] == "| here | 40.0 | – | – | tva |"
    assert table.pop(3) == "| here | 41.0 | – | – | tva; dual softmax over the test set |"
    assert [row.split(" | ")[0].strip("| ") for row in table[3:]] == ["VALOR-L"] * 2 + ["VALOR-B"] * 4 + ["VAST"] * 2 + ["GRAM"] * 4
    assert table[5] == "| VALOR-B | 43.0 | 72.2 | 82.1 | tva, 8 frames, 2 slices of sound, 224 pixels |"
    assert "| VAST | 49.3 | 68.3 | 73.9 | tvas, 16 frames, 1 slice of sound, 224 pixels; zero-shot |" in table
    assert "VALOR-L, VALOR-B: all clips ranked by the fine-grained score alone, no re-ranking; every caption" in plain
    assert "Sources. VALOR-L: Chen et al., VALOR, arXiv:2304.08345v1" in plain


def test_judged_numbers_have_a_column_of_their_own(tmp_path):
    entries = [{"clip_id": "c", "question": "what", "answer": "cow", "tv": "cow"}]
    protocol = {"dataset": "msvd_qa", "objective": "qa", "groups": ["tv"], "model_type": "avllm", "frames": 32, "resolution": 224}
    (tmp_path / "results").mkdir()
    for judged in ({}, {"judged": {"tv": {"accuracy": 55.0, "model": "judge-7b"}}}):
        content = {"protocol": {**protocol, **judged}, "metrics": {"tv": {"accuracy": 40.0}}, "predictions": entries}
        (tmp_path / "results" / "msvd_qa.qa.json").write_text(json.dumps(content))
        assert run_report.main([str(tmp_path)]) == 0
        plain = (tmp_path / "report.md").read_text()
        assert "| accuracy | 40.0 | – | – | – |" in plain  # no number of the paper beside it
        assert ("| right by a judge | 55.0 | – | 67.3 | -12.3 |" in plain) is bool(judged)
        table = plain.split("Published on msvd_qa")[1].split("\n\n")[1].splitlines()
        assert table[0] == "| model | accuracy | right by a judge | protocol |"
        assert table[2] == f"| here | 40.0 | {'55.0' if judged else '–'} | tv |"
        who = "a GPT whose version is not said"
        assert f"| Audio-Visual LLM | – | 67.3 | tv, 32 frames, 224 pixels; zero-shot; answers marked by {who} |" in table
        assert f"answers marked by {'judge-7b' if judged else 'exact match alone'}, published by {who}" in plain


def test_metrics_that_were_not_computed_are_named_with_their_reason(tmp_path):
    entries = [{"clip_id": "c", "references": ["a cow"], "tv": "a cow", "scores": {"tv": {"cider": 1.0}}}]
    protocol = {"dataset": "my_cap", "objective": "cap", "groups": ["tv"], "not_computed": {"meteor": "no Java", "spice": "old"}}
    content = {"protocol": protocol,
               "metrics": {"tv": {"cider": 10.0, "bleu4": 20.0}}, "predictions": entries}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "my_cap.cap.json").write_text(json.dumps(content))
    assert run_report.main([str(tmp_path)]) == 0
    assert "my_cap, not computed: METEOR, no Java; SPICE, old." in (tmp_path / "report.md").read_text()


def test_curves_stand_in_the_markdown_as_numbers(tmp_path):
    (tmp_path / "log").mkdir()
    rows = [{"step": n, "corpus": "x", "losses": {"loss": float(n), "itc": 1.0}, "grad_norm": 2.0, "data_wait": 0.25}
            for n in range(1, 11)]
    (tmp_path / "log" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    evaluations = [{"step": n, "a.b.ret.tva.itm.r1": 10.0 * n, "a.b.ret.tva.itc.r1": 5.0, "a.b.ret.tva.itm_v2t.r1": 1.0,
                    "q.qa.tv.accuracy": n} for n in (1, 2)]
    (tmp_path / "log" / "eval.jsonl").write_text("\n".join(map(json.dumps, evaluations)))
    assert run_report.main([str(tmp_path)]) == 0
    plain, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    assert "| 1 to 2 | 1.5 | 1 | – | – | – | 2 | – | 25 |" in plain and "| waiting for data, % |" in plain and "| 9 to 10 | 9.5 |" in plain
    assert "At the last step: a.b: R@1, re-ranked: tva 20.0 · a.b: R@1, contrastive: tva 5.0 · q: accuracy: tv 2.0." in plain
    assert 'aria-label="a.b: R@1, re-ranked"' in page


def test_goodput_and_the_slowest_processes_are_told(tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    (log / "metrics.jsonl").write_text(json.dumps({"step": 1, "corpus": "toy", "loss": 2.0}))
    own = [{"rank": rank, "host": "node", "clips_per_second": 5.0, "data_wait": 0.1, "exchange_wait": 0.2, "memory_gb": 7.0}
           for rank in range(9)]
    (log / "performance.jsonl").write_text(json.dumps({"step": 1, "slowest": [3, 0, 1, 2, 4], "stragglers": ["rank 3 on node is slow"],
                                                       "processes": own}))
    (log / "wall.jsonl").write_text("".join(json.dumps({"event": event, "time": at, "step": 1, "trained": 90.0}) + "\n"
                                            for event, at in (("start", 0), ("ready", 5), ("end", 100))))
    assert run_report.main([str(tmp_path)]) == 0
    plain = (tmp_path / "report.md").read_text()
    assert "Goodput 90.0 %: of 1:40 since the start 1:30 were training" in plain
    assert "The slowest of 9 processes, at step 1" in plain and "Straggler: rank 3 on node is slow." in plain
    assert plain.index("3 on node") < plain.index("0 on node") and "8 on node" not in plain


def test_cases_show_folders_of_frames_images_and_what_was_found(tmp_path):
    for clip_id in ("seen", "found"):
        (tmp_path / "frames" / clip_id).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (32, 24), (80 * number, 0, 0)).save(tmp_path / "frames" / clip_id / f"{number}.png")
    entry = {"text": "t", "clip_id": "seen", "tv": {"itc_rank": 2, "top": ["found", "seen", "absent"]}}
    result = _result("ret", [entry])
    settings = {"name": "x", "vision": str(tmp_path / "frames"), "vision_format": "video_frame"}
    run = run_report.Run(tmp_path, {"data_cfg": {"val": [settings]}}, [], [], [result])
    (card,) = cases.cases_of(result, run, {"seen": {"subtitle": "s"}}, 1)
    assert len(card.frames) == 4 and len({picture.uri for picture in card.frames}) == 3
    ((heading, found),) = card.blocks
    assert [(p.words, p.right, bool(p.uri)) for p in found] == [("found", False, True), ("seen", True, True), ("absent", False, False)]
    settings["vision_format"] = "video"  # of videos and folders of frames, as found
    assert [picture.uri for picture in cases.cases_of(result, run, {}, 1)[0].frames] == [picture.uri for picture in card.frames]
    page = run_report.Report("t").gallery([card])
    assert "- Found first: 1. found, 2. seen ✓, 3. absent" in page.markdown() and 'src=""' not in page.html() and heading in page.html()


def test_answers_of_several_people_are_shown_with_their_numbers():
    entries = [{"clip_id": str(n), "question": "q", "answer": "no", "answers": ["no"] * 7 + ["yes"] * 3, "tv": said}
               for n, said in enumerate(("No.", "yes", "maybe"))]
    result = _result("qa", entries)
    assert run_report.goodness(result) == pytest.approx([1.0, 0.9, 0.0])
    card = cases.cases_of(result, run_report.Run(Path(), {}, [], [], [result]), {}, 1)[0]
    assert [line.text for line in card.lines if line.label == "answer"] == ["no ×7, yes ×3"]


def test_the_last_evaluation_of_a_training_is_taken(tree, tmp_path):
    content = next((tree / "run" / "test_qa" / "results").glob("*.json")).read_text()
    for step in (9, 10):
        (tmp_path / "results" / f"step_{step}").mkdir(parents=True)
        (tmp_path / "results" / f"step_{step}" / "x.qa.json").write_text(content)
    assert [result.path.parent.name for result in run_report.read_run(tmp_path).results] == ["step_10"]


def test_cases_are_ordered_by_rank_score_and_right_answers():
    ranks = [{"clip_id": str(n), "text": "w " * n, "tv": {"itc_rank": 1, "itm_rank": n}} for n in (3, 1, 20)]
    assert run_report.goodness(_result("ret", ranks)) == [-3.0, -1.0, -20.0]
    scored = [{"clip_id": "a", "tv": "x", "references": ["x"], "scores": {"tv": {"cider": value}}} for value in (0.5, 2.0)]
    assert run_report.goodness(_result("cap", scored)) == [0.5, 2.0]
    bare = [{"clip_id": "a", "tv": words, "references": ["a cow"]} for words in ("a cow", "some dog")]
    assert run_report.goodness(_result("cap", bare)) == pytest.approx([1.0, 0.0])


def test_breakdowns_by_type_category_and_length():
    entries = [{"clip_id": clip, "question": "w " * words, "answer": "cow", "tv": said, "type": kind}
               for clip, words, said, kind in (("a", 3, "cow", "x"), ("a", 20, "dog", "y"), ("b", 10, "cow", "y"))]
    assert run_report.breakdown(_result("qa", entries), {"a": "music", "b": "sport"}) == {
        "type": [("x", 1, 100.0), ("y", 2, 50.0)],
        "category": [("music", 2, 50.0), ("sport", 1, 100.0)],
        "length": [("up to 8 words", 1, 100.0), ("9 to 16 words", 1, 100.0), ("17 words or more", 1, 0.0)],
    }


def test_sounds_play():
    tone = 0.5 * torch.sin(torch.arange(16000) * 0.17)
    uri = sound_uri(tone, 16000)
    with av.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as container:
        samples = torch.cat([torch.from_numpy(frame.to_ndarray()).flatten().float() for frame in container.decode(audio=0)])
    assert uri.startswith("data:audio/mpeg") and 15000 < len(samples) < 20000 and 0.3 < samples.abs().max() < 0.8
    assert sound_of(None, 16000) is None and "<path" in sound_of(tone, 16000).waveform
