"""The check of a config's datasets, before a run."""

import logging
import shutil

import pytest

from omnivast.config.schema import Config, DataConfig, ModelConfig, RunConfig
from omnivast.data.check import datasets
from omnivast.data.shards.pack import Packing, pack
from omnivast.data.spec import InputSpec
from tests.data.conftest import vast_rows


@pytest.fixture
def damaged(corpus, tmp_path):
    """The corpus with a broken clip, one that is absent, and one of two frames where three are asked for (clip 3 is silent)."""
    shutil.copytree(corpus.root, tmp_path / "own")
    videos = tmp_path / "own" / "videos"
    (videos / "clip1.mp4").write_bytes(b"no video at all")
    (videos / "clip2.mp4").unlink()
    return type(corpus)(tmp_path / "own")


def check(config, **how):
    return datasets.check(config, InputSpec.of(config.model_cfg), **how)


def config(train=(), val=(), **run) -> Config:
    return Config(RunConfig(**run), ModelConfig(), DataConfig(tuple(train), tuple(val)))


def test_what_is_found_of_each_clip(damaged, caplog):
    rows = vast_rows()
    rows[4]["vast_cap"] = "word " * 69  # and two that frame it: one above 70
    train = damaged.config(txt=damaged.annotate("rows.json", rows), vision_sample_num=9)
    with caplog.at_level(logging.INFO, "omnivast"):
        [report] = check(config([train], max_unreadable=0.3), workers=1)
    assert (report.rows, len(report.findings), report.failed) == (8, 8, False)
    for what, expected in {"fault": {1, 2}, "without_sound": {3}, "without_subtitle": {0}, "too_short": {0, 3, 4, 5, 6, 7},
                           "long_texts": {4}}.items():
        assert {int(f.clip_id[4:]) for f in report.findings if getattr(f, what)} == expected, what
    assert "2 of 8 clips cannot be read" in caplog.text and "clip1.mp4: not a video or sound file" in caplog.text
    assert "  1 x not a video or sound file, or truncated" in caplog.text and "without subtitle" in caplog.text


def test_threshold_and_sample(damaged):
    assert check(config([damaged.config()], max_unreadable=0.2))[0].failed
    assert check(config(val=[damaged.config()]))[0].failed
    assert not check(config(val=[damaged.config()], skip_unreadable=True))[0].failed
    [sample] = check(config([damaged.config()]), clips=2)
    assert [finding.clip_id for finding in sample.findings] == ["clip0", "clip4"] and not sample.failed


def test_a_dataset_that_cannot_be_used_does_not_hide_the_others(corpus):
    broken = corpus.config(name="broken", txt="absent.json")
    first, second = check(config([broken, corpus.config()]))
    assert first.failed and "absent.json: no such annotation file" in first.fault and not second.failed


def test_clips_in_training_and_test(corpus, tmp_path, caplog):
    rows = vast_rows()
    (tmp_path / "other").mkdir()
    shutil.copy(corpus.root / "videos" / "clip5.mp4", tmp_path / "other" / "clip5.mp4")  # the same clip elsewhere
    shutil.copy(corpus.root / "videos" / "clip5.mp4", tmp_path / "other" / "clip6.mp4")  # another under the same name
    train = corpus.config(txt=corpus.annotate("first.json", rows[:6]), task="ret%tv")
    same = corpus.config(name="same", txt=corpus.annotate("last.json", rows[4:]), task="ret%tv")
    other = corpus.config(name="other", txt=corpus.annotate("two.json", rows[5:7]), vision=str(tmp_path / "other"), task="ret%tv")
    check(config([train], [same, other]))
    assert "2 of the 4 clips of val same are also in train clips: clip4, clip5" in caplog.text
    assert "1 of the 2 clips of val other are also in train clips: clip5" in caplog.text


def test_lengths_beside_their_limits(corpus, caplog):
    rows = [{"id": f"clip{i}", "desc": "word " * (10 * i + 1), "subtitle": "one, two" if i else ""} for i in range(8)]
    with caplog.at_level(logging.INFO, "omnivast"):
        check(config([corpus.config(txt=corpus.annotate("lengths.json", rows), task="ret%tvs")]))
    assert "train clips: 8 omni captions, tokens at least: half up to 33, 95 % up to 73, the longest 73; limit 40, which cuts 4 (50.0%)" \
        in caplog.text
    assert "train clips: 7 subtitles, tokens at least: half up to 5, 95 % up to 5, the longest 5; limit 70" in caplog.text


def test_one_clip_under_two_names_in_training_and_test(corpus, tmp_path, caplog):
    (tmp_path / "other").mkdir()
    for here, there in ((5, "renamed"), (6, "clip6"), (7, "clip0")):
        shutil.copy(corpus.root / "videos" / f"clip{here}.mp4", tmp_path / "other" / f"{there}.mp4")
    rows = [{"id": name, "desc": "x"} for name in ("renamed", "clip6", "clip0")]
    test = corpus.config(name="test", txt=corpus.annotate("renamed.json", rows), vision=str(tmp_path / "other"), task="ret%tv")
    check(config([corpus.config(task="ret%tv")], [test]))
    assert "1 of the 3 clips of val test are also in train clips: clip6" in caplog.text
    assert "2 of the clips of val test that were opened are also in train clips under another id: renamed (there clip5), " in caplog.text
    pack(Packing(test.txt, str(tmp_path / "shards"), test.vision))
    caplog.clear()
    sharded = corpus.config(name="test", type="srcindexed", shards=[str(tmp_path / "shards")], vision=None, txt="", task="ret%tv")
    check(config([corpus.config(task="ret%tv")], [sharded]))
    assert "are also in train clips: clip6" in caplog.text and "renamed (there clip5), clip0 (there clip7)" in caplog.text
