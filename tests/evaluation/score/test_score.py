"""``python -m omnivast score``: every task by hand-made files, and errors that say what is wrong."""

import json

import pytest

from omnivast.evaluation.metrics.bleu import bleu
from omnivast.evaluation.metrics.tokenizer import tokenize
from omnivast.evaluation.score.predictions import main


@pytest.fixture
def files(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


@pytest.fixture
def scored(files, tmp_path, capsys):
    def run(task, predictions, references, *flags):
        out = tmp_path / "out.json"
        arguments = ["--task", task, "--predictions", files("p.json", predictions), "--references", files("r.json", references)]
        status = main([*arguments, "--json", str(out), "--java_seconds", "0", *flags])
        texts = capsys.readouterr()
        return (json.loads(out.read_text()), texts.out) if status == 0 else texts.err

    return run


CAPTIONS = {"annotations": [
    {"video_id": "a", "caption": "A man's dog runs."}, {"video_id": "a", "caption": "a dog is running"},
    {"video_id": "b", "caption": "Two women are cooking."}, {"video_id": "c", "caption": "someone plays the piano"}]}
GIVEN = [{"video_id": "c", "caption": "someone plays a guitar"}, {"video_id": "a", "caption": "a man's dog runs"},
         {"video_id": "b", "caption": "two women are cooking"}]


def test_captions(scored):
    found, text = scored("cap", GIVEN, CAPTIONS)
    references = [["A man's dog runs.", "a dog is running"], ["Two women are cooking."], ["someone plays the piano"]]
    candidates = ["a man's dog runs", "two women are cooking", "someone plays a guitar"]
    expected = bleu([tokenize(c) for c in candidates], [[tokenize(r) for r in own] for own in references])
    assert [found[f"bleu{n}"] for n in range(1, 5)] == pytest.approx([100 * score for score in expected])
    assert {"rougeL", "cider"} <= found.keys() and "meteor" not in found
    assert all(low <= found[name] <= high for name, (low, high) in found["intervals"].items() if name != "bleu4")
    assert found["not_computed"].keys() == {"meteor", "spice", "spider"} and "meteor  not computed: not asked for" in text
    assert [entry["clip_id"] for entry in found["predictions"]] == ["a", "b", "c"] and found["protocol"]["clips"] == 3
    # The order of either file changes nothing.
    other, _ = scored("cap", GIVEN[::-1], {"annotations": CAPTIONS["annotations"][:2] + CAPTIONS["annotations"][:1:-1]})
    assert other["cider"] == pytest.approx(found["cider"]) and other["bleu4"] == pytest.approx(found["bleu4"])


def test_a_perfect_prediction_scores_the_maximum_and_an_empty_one_nothing(scored):
    references = {"annotations": [{"video_id": str(n), "caption": f"a person number{n} plays with thing{n} outside"} for n in range(8)]}
    perfect = [{"video_id": a["video_id"], "caption": a["caption"].upper() + "."} for a in references["annotations"]]
    found, _ = scored("cap", perfect, references)
    assert [found[name] for name in ("cider", "bleu1", "bleu4", "rougeL")] == pytest.approx([1000.0, 100.0, 100.0, 100.0])
    assert found["intervals"]["cider"] == pytest.approx([1000.0, 1000.0])
    found, _ = scored("cap", [{**row, "caption": ""} for row in perfect], references)
    assert [found[name] for name in ("cider", "bleu1", "rougeL")] == pytest.approx([0.0] * 3, abs=1e-6)


def test_captions_of_a_subset_and_of_a_result_file(scored):
    assert "1 of 3 videos" in scored("cap", GIVEN[:2], CAPTIONS) and "for example 'b'" in scored("cap", GIVEN[:2], CAPTIONS)
    found, text = scored("cap", GIVEN[:2], CAPTIONS, "--subset")
    assert found["protocol"]["references_without_prediction"] == 1 and "1 references left out" in text
    result = {"protocol": {"objective": "cap", "groups": ["tv", "tvas"]},
              "predictions": [{"clip_id": row["video_id"], "tv": row["caption"], "tvas": "x"} for row in GIVEN]}
    assert "has the groups tv, tvas; choose one with --group" in scored("cap", result, CAPTIONS)
    assert "has no group 'ta'; it has tv, tvas" in scored("cap", result, CAPTIONS, "--group", "ta")
    assert scored("cap", result, CAPTIONS, "--group", "tv")[0]["cider"] == scored("cap", GIVEN, CAPTIONS)[0]["cider"]


@pytest.mark.parametrize(("predictions", "references", "message"), [
    ([*GIVEN, GIVEN[0]], CAPTIONS, "video 'c' has two predictions"),
    ([*GIVEN, {"video_id": "d", "caption": "x"}], CAPTIONS, "1 video(s) are not in"),
    ([{"video_id": "a"}], CAPTIONS, "prediction 0 (video 'a') has no 'caption'"),
    ([{"caption": "x"}], CAPTIONS, "row 0 has no id; expected one of clip_id, video_id"),
    ([], CAPTIONS, "there is no prediction"),
    ("{", CAPTIONS, "not JSON: line 1"),
    ({"a": "x"}, CAPTIONS, 'expected [{"video_id": …, "caption": …}, …]'),
    (GIVEN, [1], "row 0 has no caption; expected one of desc, caption"),
    (GIVEN, [], "expected reference captions as"),
    (GIVEN, [{"video_id": "a", "desc": [" ", ""]}], "clip 'a' has only blank reference captions"),
])
def test_errors_of_captions(scored, predictions, references, message):
    assert message in scored("cap", predictions, references)


# Videos a and b share a caption; c has two of its own.
VIDEOS = [{"video_id": "a", "desc": "a dog"}, {"video_id": "b", "desc": "a dog"}, {"video_id": "c", "desc": ["a cat", "cats"]}]


def test_retrieval(scored):
    found, _ = scored("ret", [
        {"caption": "a dog", "ranked": ["c", "b", "a"]},                              # b is right too: rank 2
        {"caption": "a cat", "ranked": ["c", "a", "b"], "scores": [0.5, 0.5, 0.1]},    # a tie counts against c: rank 2
        {"caption": "cats", "ranked": ["a"]},                                         # c is left out: behind the 2 others
        {"video_id": "a", "ranked": ["a dog", "a cat", "cats"]},                      # 1
        {"video_id": "b", "ranked": ["cats", "a cat"]},                               # behind the 2 others: 3
        {"video_id": "c", "ranked": ["a dog", "cats"], "scores": [0.1, 0.9]},         # 1
    ], VIDEOS)
    assert (found["r1"], found["r5"], found["median_rank"]) == (0.0, 100.0, 2.0)
    assert found["mean_rank"] == pytest.approx(7 / 3)
    assert found["v2t.r1"] == pytest.approx(200 / 3) and found["v2t.mean_rank"] == pytest.approx(5 / 3)
    assert found["intervals"]["v2t.r5"] == [100.0, 100.0]


@pytest.mark.parametrize(("predictions", "message"), [
    ([{"caption": "a dog", "ranked": ["a", "x"]}], "ranks 'x', which is not in"),
    ([{"caption": "a dog", "ranked": ["a", "b", "a"]}], "ranks 'a' twice"),
    ([{"caption": "a dog", "ranked": ["a"], "scores": [1, 2]}], "as many numbers in 'scores'"),
    ([{"caption": "a dog", "ranked": ["a"]}], "2 of 3 captions"),
    ([{"caption": "a bird", "ranked": ["a"]}], "caption 'a bird' is not in"),
    ([{"caption": "a cat", "ranked": ["a"]}] * 2 + [{"caption": t, "ranked": []} for t in ("cats", "a dog")],
     "caption 'a cat' is predicted 2 times, but occurs 1"),
    ([{"caption": "a dog"}], "has no 'ranked'"),
])
def test_errors_of_retrieval(scored, predictions, message):
    assert message in scored("ret", predictions, VIDEOS)


def test_questions_of_an_annotation_list(scored):
    references = [{"video_id": "a", "question": ["what is it", "is it red"], "answer": ["two dogs", "yes"],
                   "question_type": ["what", "is"]},
                  {"video_id": "b", "question": "what is it", "answer": "a cat", "type": "what"}]  # As MUSIC-AVQA names it.
    found, _ = scored("qa", [{"video_id": "b", "question": "what is it", "answer": "cat"},
                             {"video_id": "a", "question": "what is it", "answer": "2 dogs"},
                             {"video_id": "a", "question": "is it red", "answer": " Yes"}], references)
    assert found["accuracy"] == pytest.approx(100 / 3) and found["accuracy_normalised"] == 100.0
    assert (found["types.what"], found["types.is"]) == (0.0, 100.0) and "vqa_accuracy" not in found
    message = scored("qa", [{"video_id": "b", "question": "what is it", "answer": "cat"}], references)
    assert "2 of 3 questions" in message and "--subset" in message
    assert "b: why is not in" in scored("qa", [{"video_id": "b", "question": "why", "answer": "x"}], references)


def test_vqa_annotations_and_submission(scored, files, tmp_path):
    def people(*counts):
        return [{"answer": answer, "answer_confidence": "yes", "answer_id": n}
                for n, answer in enumerate([answer for answer, count in counts for _ in range(count)])]

    references = {"annotations": [
        {"image_id": 1, "question_id": 1001, "question_type": "is the", "answer_type": "yes/no", "multiple_choice_answer": "yes",
         "answers": people(("yes", 8), ("no", 2))},
        {"image_id": 1, "question_id": 1002, "question_type": "how many", "answer_type": "number", "multiple_choice_answer": "2",
         "answers": people(("2", 9), ("two", 1))}]}
    predictions = [{"question_id": 1002, "answer": "two"}, {"question_id": 1001, "answer": "no"}]
    found, _ = scored("qa", predictions, references)
    right = 100 * (8 * 2 / 3 + 2 * 1 / 3) / 10
    assert found["answer_types.yes/no"] == pytest.approx(right) and found["answer_types.number"] == 100.0
    assert found["vqa_accuracy"] == pytest.approx((right + 100) / 2) and found["accuracy"] == 0.0 and found["accuracy_normalised"] == 50.0
    assert "question_id 7 is not in" in scored("qa", [{"question_id": 7, "answer": "x"}], references)
    out = tmp_path / "submission.json"
    assert main(["--task", "qa", "--predictions", files("p.json", predictions), "--submission", str(out)]) == 0
    assert json.loads(out.read_text()) == predictions


def test_a_file_that_is_absent(capsys, tmp_path):
    assert main(["--task", "cap", "--predictions", str(tmp_path / "no.json"), "--references", "x"]) == 2
    assert "no.json: no such file" in capsys.readouterr().err


def test_a_place_that_cannot_be_written(files, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    given = ["--predictions", files("p.json", GIVEN), "--references", files("r.json", CAPTIONS), "--java_seconds", "0"]
    assert main(["--task", "cap", *given, "--json", str(tmp_path / "file" / "out.json")]) == 2
    words = capsys.readouterr().err
    assert words.startswith("score: ") and words.count("\n") == 1 and str(tmp_path / "file") in words


def test_ids_that_the_references_have_not(scored):
    references = [{"video_id": "a", "question": "what?", "answer": "dog"}]
    words = scored("qa", [{"question_id": 3, "answer": "dog"}], references)
    assert "prediction 0 names its question by 'question_id' alone, which" in words
    assert scored("qa", [{"question_id": 3, "video_id": "a", "question": "what?", "answer": "dog"}], references)[0]["accuracy"] == 100.0


def test_captions_take_an_annotation_list_as_references(scored):
    rows = [{"video_id": "a", "desc": ["A man's dog runs.", "a dog is running"], "subtitle": "x"},
            {"video_id": "b", "desc": "Two women are cooking."}, {"video_id": "c", "desc": "someone plays the piano"}]
    assert scored("cap", GIVEN, rows)[0]["cider"] == scored("cap", GIVEN, CAPTIONS)[0]["cider"]


def test_a_blank_reference_is_left_out_and_said(scored, caplog):
    references = {"annotations": [*CAPTIONS["annotations"], {"video_id": "a", "caption": " "}]}
    assert scored("cap", GIVEN, references)[0]["cider"] == scored("cap", GIVEN, CAPTIONS)[0]["cider"]
    assert "r.json: 1 blank reference caption(s) are left out" in caplog.text


def test_cider_of_one_clip_is_said_to_mean_nothing(scored):
    found, text = scored("cap", GIVEN[:1], {"annotations": CAPTIONS["annotations"][3:]})
    assert "[0.00, 0.00]  says nothing of one clip: it weighs words by how few clips have them" in text
    assert found["protocol"]["remarks"].keys() == {"cider"}
    assert "remarks" not in scored("cap", GIVEN, CAPTIONS)[0]["protocol"]


def test_a_question_that_a_clip_has_twice(scored):
    references = [{"video_id": "a", "question": ["what can you hear?"] * 2, "answer": ["owl", "an owl"]},
                  {"video_id": "b", "question": "what?", "answer": "cat"}]
    twice, other = {"video_id": "a", "question": "what can you hear?"}, {"video_id": "b", "question": "what?", "answer": "cat"}
    found, _ = scored("qa", [{**twice, "answer": "owl"}, other, {**twice, "answer": "an owl"}], references)
    assert found["accuracy"] == 100.0 and [entry["scored"] for entry in found["predictions"]] == ["owl", "an owl", "cat"]
    # One answer serves for both.
    assert scored("qa", [{**twice, "answer": "owl"}, other], references)[0]["accuracy"] == pytest.approx(200 / 3)
    words = scored("qa", [{**twice, "answer": "owl"}] * 3 + [other], references)
    assert "what can you hear? has 3 answers, but stands 2 times in" in words
    assert "b: what? has 2 answers, but stands once in" in scored("qa", [other, other], references)
    # The result file of a test of the same list.
    result = {"protocol": {"objective": "qa", "groups": ["tv"]}, "predictions": [
        {"clip_id": "a", "question": "what can you hear?", "tv": "owl"}, {"clip_id": "a", "question": "what can you hear?", "tv": "owl"},
        {"clip_id": "b", "question": "what?", "tv": "cat"}]}
    assert scored("qa", result, references)[0]["accuracy"] == pytest.approx(200 / 3)


def test_an_answer_by_id_and_another_by_text_are_two_answers(scored):
    references = [{"video_id": "a", "question": "what?", "question_id": 1, "answer": "dog"}]
    words = scored("qa", [{"question_id": 1, "answer": "dog"}, {"video_id": "a", "question": "what?", "answer": "cat"}], references)
    assert "a: what? has an answer by its question_id too" in words


@pytest.mark.parametrize(("task", "predictions", "references", "message"), [
    ("cap", {"protocol": {"objective": "cap", "groups": 5}, "predictions": [{"clip_id": "a"}]}, CAPTIONS, "p.json: expected"),
    ("cap", {"protocol": {"objective": "cap", "groups": ["tv"]}, "predictions": [{"clip_id": "a"}]}, CAPTIONS,
     "clip 'a' has no caption of group 'tv'"),
    ("qa", [{"video_id": "a", "question": "x", "answer": "y"}], [{"video_id": "a", "answers": 3}], "row 0: 'answers' must be a list"),
    ("qa", [{"video_id": "a", "question": "x", "answer": "y"}], [{"video_id": "a", "answers": [{}]}], "row 0: 'answers' must be a list"),
])
def test_files_of_another_form_are_told(scored, task, predictions, references, message):
    assert message in scored(task, predictions, references)


def test_flags_that_are_missing():
    with pytest.raises(SystemExit):
        main(["--task", "cap", "--predictions", "x"])


def test_a_type_of_question_keeps_its_name(scored):
    """Whatever it looks like: kinds of ranks are dropped from the names of ranking's metrics alone."""
    references = [{"video_id": "a", "question": "what?", "answer": "dog", "question_type": "itc_v2t.itc"}]
    found, _ = scored("qa", [{"video_id": "a", "question": "what?", "answer": "dog"}], references)
    assert found["types.itc_v2t.itc"] == 100.0 == found["intervals"]["types.itc_v2t.itc"][0]
