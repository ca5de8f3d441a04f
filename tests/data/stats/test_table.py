"""The table that people see."""

import pytest

from omnivast.data.stats.concepts import ConceptDetector
from omnivast.data.stats.measure import measure
from omnivast.data.stats.table import table
from tests.media_factory import write_json

WHOLE = """\
                                  train         train         asked  ids
                          omni captions     subtitles     questions
rows                                  2                           1    1
clips                                 2                           1    1
  with omni captions                  2
  with subtitles                      1
  with questions                                                  1
texts                                 3             1             2
  empty, beside them                  0             0             0
  repeated                   1 (33.3 %)             0             0
  repeated in their clip     1 (33.3 %)             0             0
  per clip                 1.5 (1 to 2)  1.0 (1 to 1)  2.0 (2 to 2)
words                                 5             2             4
  per text                          1.7           2.0           2.0
  half have up to                     2             2             1
  95 % have up to                     2             2             3
  the longest has                     2             2             3
vocabulary                            3             2             4
audio concepts                        3             0             0
  different ones                      2             0             0
  ACD: per 100 words               60.0           0.0           0.0
answers                                                           1
  different ones                                                  1
  questions without                                               1
most frequent words                 a 2       hello 1         who 1
                                  dog 2         you 1          is 1
most frequent concepts            dog 2
                                 rain 1
most frequent answers                                       a dog 1
"""


@pytest.fixture
def files(tmp_path):
    rows = [{"video_id": "a", "desc": ["a dog", "a dog"], "subtitle": "hello you"}, {"video_id": "b", "desc": "rain"}]
    asked = {"x": [{"question": "who is it?", "answer": "a dog"}, {"question": "where?"}]}
    paths = [write_json(tmp_path / name, value) for name, value in (("train.json", rows), ("asked.json", asked), ("ids.json", ["a"]))]
    return [measure(path, ConceptDetector({"dog", "rain"}), top=2) for path in paths]


def test_a_column_for_each_kind_of_text(files):
    assert table(files, 100) == WHOLE


def test_blocks_that_fit_the_terminal(files):
    first, second = table(files, 60).split("\n\n")
    assert max(len(line) for line in first.splitlines()) <= 60
    assert first.splitlines()[0].split() == ["train", "train"] and second.splitlines()[0].split() == ["asked", "ids"]
    assert "answers" not in first and "subtitles" not in second  # nothing is said of them there
    assert len(table(files, 1).split("\n\n")) == 4  # never less than a column


def test_names_of_files(files):
    def head(*names):
        return table([{**files[2], "file": name} for name in names], 1000).splitlines()[0].split()

    assert head("a/train.json", "b/test.json") == ["train", "test"]
    assert head("a/x.json", "b/x.json", "x.json") == ["a/x", "b/x", "x"]
    [long] = head("a/" + "0123456789" * 4 + ".json")
    assert len(long) == 28 and long.startswith("…3456789") and long.endswith("89")


def test_tokens(files):
    own = files[0]["texts"]["subtitles"]
    own["tokens"] = {"mean": 3.5, "p95": 4, "longest": 4, "limit": 3, "cut": 1}
    lines = table(files, 100).splitlines()
    at = lines.index("tokens per text                                   3.5")
    assert [" ".join(line.split()) for line in lines[at + 1 : at + 5]] == [
        "95 % have up to 4", "the longest has 4", "the limit 3", "cut to it 1 (100.0 %)"]
