"""Tests that break off and are continued: nothing is computed twice, and the results are those of an unbroken one."""

from __future__ import annotations

import json

import pytest

from omnivast.data.spec import UnreadableError
from omnivast.evaluation.retrieval.matching import PairMatcher
from omnivast.evaluation.run import evaluate, precision_begun
from omnivast.model.weights import LoadReport
from omnivast.utils.log import JsonlWriter
from tests.evaluation.fakes import FakeLoader, FakeModel, config_of

WEIGHTS = {"checkpoint": "model.pt", "checkpoint_sha256": "aa"}
EVERYTHING = "ret%tvas%tv_cap%tva_qa%tvs"


class Breaking(FakeLoader):
    """Breaks off after so many batches; or finds at the end that the rows ``broken`` cannot be read."""

    def __init__(self, task: str = EVERYTHING, after: int = 100, broken: tuple[int, ...] = (), **options) -> None:
        super().__init__(task, kinds=True, **options)
        self.after, self.broken = after, broken

    def read(self, done=()):
        for number, batch in enumerate(super().read({*done, *self.broken})):
            if number == self.after:
                raise KeyboardInterrupt
            yield batch
        if self.broken:
            raise UnreadableError.of(self.name, [(self.clip_ids[row], "no such file") for row in self.broken], "repair them")


def run(folder, loader, weights=WEIGHTS, **settings):
    """The metrics, the results without what differs by time, and how many clips were encoded."""
    model = FakeModel()
    metrics = evaluate(model, [loader], config_of(**{"itm_rerank_num": 3, **settings}), folder=folder, provenance=weights)
    results = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return metrics, {name: (own["metrics"], own["predictions"], own["intervals"]) for name, own in results.items()}, model.encoded_clips


@pytest.fixture
def whole(tmp_path):
    return run(tmp_path / "whole", Breaking())


@pytest.mark.parametrize("torn", [False, True])
def test_killed_and_continued_equals_unbroken(tmp_path, whole, torn, caplog):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Breaking(after=2))
    [part] = tmp_path.glob("unfinished/toy.*/part_*.jsonl")
    lines = part.read_text().splitlines()
    assert [json.loads(line)["rows"] for line in lines] == [list(range(7)), list(range(7, 14))]
    if torn:
        part.write_text("\n".join(lines)[:-100])
    with caplog.at_level("INFO", "omnivast"):
        metrics, results, encoded = run(tmp_path, Breaking())
    assert (metrics, results) == whole[:2]
    kept = 7 if torn else 14
    assert whole[2] == 23 and 23 - kept <= encoded <= 23 + 7  # clips kept are encoded again for re-ranking alone
    assert f"{kept} of 23 clips were tested by an earlier run" in caplog.text
    assert not (tmp_path / "unfinished").exists()
    protocol = json.loads((tmp_path / "toy.cap.json").read_text())["protocol"]
    assert protocol["clips_of_an_earlier_run"] == kept


class Stopping(FakeModel):
    """Is stopped in the midst of re-ranking, after so many calls."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.pairs = after, 0

    def match(self, memory, group, ids, mask, rows):
        if not self.after:
            raise KeyboardInterrupt
        self.after -= 1
        self.pairs += len(ids)
        return super().match(memory, group, ids, mask, rows)


@pytest.mark.parametrize("torn", [False, True])
def test_killed_while_re_ranking_only_the_other_pairs_are_scored(tmp_path, monkeypatch, torn):
    monkeypatch.setitem(PairMatcher.__init__.__kwdefaults__, "memory_tokens", 12)  # few clips at once

    def tested(folder, after):
        model = Stopping(after)
        try:
            evaluate(model, [Breaking("ret%tvas%tv")], config_of(itm_rerank_num=3), folder=folder, provenance=WEIGHTS)
        except KeyboardInterrupt:
            return model.pairs, None
        own = json.loads((folder / "toy.ret.json").read_text())
        return model.pairs, (own["metrics"], own["predictions"])

    pairs, whole = tested(tmp_path / "whole", -1)
    first, nothing = tested(tmp_path, 9)
    assert nothing is None and 0 < first < pairs
    [file] = tmp_path.glob("unfinished/toy.*/matched_*.jsonl")
    if torn:
        file.write_text(file.read_text()[:-30])
    second, found = tested(tmp_path, -1)
    assert pairs - first <= second < pairs
    assert found == whole and not (tmp_path / "unfinished").exists()


def test_broken_at_the_last_clip_only_that_one_is_left(tmp_path):
    task = "cap%tva_qa%tvs"
    for _ in range(2):  # as long as nothing is repaired, nothing is lost
        with pytest.raises(UnreadableError, match="clip22: no such file\\nWhat was found.*goes on from there"):
            run(tmp_path, Breaking(task, broken=(22,)))
    metrics, results, encoded = run(tmp_path, Breaking(task))
    assert encoded == 1 and (metrics, results) == run(tmp_path / "whole", Breaking(task))[:2]


def test_broken_off_at_the_second_dataset_the_first_is_not_tested_again(tmp_path):
    first, second = Breaking("cap%tva"), Breaking("cap%tva", after=1)
    first.name = "first"
    with pytest.raises(KeyboardInterrupt):
        evaluate(FakeModel(), [first, second], config_of(), folder=tmp_path, provenance=WEIGHTS)
    assert (tmp_path / "first.cap.json").exists()
    model, second.after = FakeModel(), 100
    evaluate(model, [first, second], config_of(), folder=tmp_path, provenance=WEIGHTS)
    assert model.encoded_clips == 23 - 7 and not (tmp_path / "unfinished").exists()


def test_other_weights_or_settings_find_nothing(tmp_path):
    def encoded(**options):
        return run(tmp_path, Breaking("cap%tva"), **options)[2]

    def broken_off():
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Breaking("cap%tva", after=2))

    broken_off()
    assert encoded(weights={**WEIGHTS, "checkpoint_sha256": "bb"}) == encoded(beam_size=5) == 23
    assert encoded(itm_rerank_num=9) == 9  # of the first ones nothing was lost, and this decides no caption


def test_weights_that_no_file_holds_are_not_recognised(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Breaking(after=2), weights={})
    assert not (tmp_path / "unfinished").exists()


def test_references_are_those_of_now(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Breaking("cap%tva", after=2))
    loader = Breaking("cap%tva")
    loader.references["clip0"] = ["corrected"]
    assert run(tmp_path, loader)[1]["toy.cap.json"][1][0]["references"] == ["corrected"]


def test_a_full_disk_is_told_of_once_and_the_test_goes_on(tmp_path, whole, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JsonlWriter, "append", full)
    assert run(tmp_path, Breaking()) == whole
    assert caplog.text.count("could not be continued") == 1


@pytest.mark.parametrize("begun", ["float32", "bf16"])
def test_a_test_goes_on_in_the_precision_that_it_began_in(tmp_path, begun):
    """Which ``auto`` would choose otherwise on another machine; of other weights or settings nothing is kept."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "results", Breaking(after=2), precision=begun)

    def kept(loader=None, weights="aa", **settings):
        report = LoadReport("model.pt", weights, (), (), (), ())
        return precision_begun(config_of(output_dir=str(tmp_path), precision="auto", **settings), [loader or Breaking()], report)

    assert kept() == begun
    assert kept(weights="bb") is kept(seed=7) is kept(loader=Breaking("ret%tv")) is None
