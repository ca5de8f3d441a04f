"""``omnivast parity``: which folder is of which family, what it prints, and its exit status. What the models give, tests/model says."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omnivast.scripts.tools.parity import command, valor, valor_data, vast
from omnivast.scripts.tools.parity.rows import Line, Row, UnsupportedError, check_lines, compare_number, compare_numbers, compare_tensor
from tests.parity import check, edit

ROOT = Path(__file__).parents[3]
GOLDENS = ROOT / "tests" / "goldens"
DATA = GOLDENS / "valor_tiny" / "data"
RELEASED_DATA = ROOT.parent / "shared" / "parity" / "valor_tiny" / "data"


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(DATA, tmp_path / "copy")
    return tmp_path / "copy"


def test_each_kind_of_folder_is_recognised():
    for name, module in (("vast_tiny", vast), ("valor_tiny/videoswin", valor), ("valor_tiny/data", valor_data)):
        assert command.reader_of(GOLDENS / name) is module.read


@pytest.mark.parametrize("folder", [DATA, RELEASED_DATA])
def test_every_value_of_the_data_is_reproduced(folder):
    """Texts, choices of frames, spectrograms and pixels, each counted anew."""
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    golden, found = json.loads((folder / "golden.json").read_text()), check(folder)
    assert found.status == 0 and found.passed and found.failed == []
    texts = [(f"{kind}[{row}]", "sequence") for kind in ("cleaned", "ids", "answer_ids") for row in range(len(golden["text"]))]
    choices = [(f"{kind}.{frames}.{parts}", "sequence") for kind in ("frame_choice", "frame_choice_training")
               for frames, parts, *_ in golden["frame_choice"]]
    tensors = [(name, "pixel" if name.startswith("pixels") else "spectrogram") for name in load_file(folder / "outputs.safetensors")]
    rounded = [(f"{name}.rounded", kind) for name, kind in tensors if kind == "pixel"]
    assert {(name, kind) for kind, name in found.rows} == {*texts, *choices, *tensors, *rounded, ("audio.absent", "spectrogram")}
    assert all(error <= {"sequence": 0, "spectrogram": 1e-4, "pixel": 1e-2}[kind] for (kind, _), (error, _) in found.rows.items())


def test_what_differs_is_named(copy):
    outputs = load_file(copy / "outputs.safetensors")
    outputs["audio.short.n2"][0, 5, 7] += 2e-4
    outputs["pixels.clip_vit_large_14_336px.none.plain"][1, 2, 3, 4] = math.nan
    save_file({**outputs, "audio.more": torch.zeros(1)}, copy / "outputs.safetensors")
    edit(copy, lambda golden: (golden["text"][1].update(cleaned="two dogs"), golden["frame_choice"][-1][2].__setitem__(0, 5)))
    frames, parts, *_ = json.loads((copy / "golden.json").read_text())["frame_choice"][-1]
    found = check(copy)
    assert found.status == 1 and set(found.failed) == {
        "cleaned[1]", f"frame_choice.{frames}.{parts}", "audio.short.n2", "pixels.clip_vit_large_14_336px.none.plain",
        "pixels.clip_vit_large_14_336px.none.plain.rounded", "audio.more"}
    assert found.notes["audio.more"].startswith("not supported by this version")
    assert "audio.short.n2" not in check(copy, "--tolerance", "spectrogram=1e-3").failed


def test_the_table_and_the_exit_status_of_a_process(copy):
    edit(copy, lambda golden: golden["text"][1].update(cleaned="two dogs"))
    run = subprocess.run([sys.executable, "-m", "omnivast", "parity", str(copy)], cwd=ROOT, capture_output=True, text=True)
    lines = run.stdout.splitlines()
    assert run.returncode == 1 and lines[0] == f"{copy}: VALOR's data, 10 texts, 3 sounds, 5 frames, 256 choices of frames"
    assert lines[2].split() == ["sequence", "cleaned", "10", "2.3e+01", "0", "FAIL", "(1)"]
    assert lines[3].startswith("  cleaned[1] ") and lines[3].endswith(", recorded two dogs") and lines[-1] == "FAILED: cleaned[1]"
    assert lines[4].split() == ["sequence", "ids", "10", "0.0e+00", "0", "ok"]
    assert not any(line.startswith("  ids[") for line in lines)


@pytest.mark.parametrize("content, message", [
    (None, "it lacks golden.json; expected one laid out as tests/goldens/vast_tiny, tests/goldens/valor_tiny/videoswin, "
           "tests/goldens/valor_tiny/data"),
    ("{", "golden.json: not JSON"), ("[1]", "golden.json: expected an object of recorded values, got list"),
    ('{"losses": {}}', "golden.json: none of the sections that say what was recorded"),
    ('{"frame_choice": []}', "lacks vocab.txt, inputs.safetensors, outputs.safetensors; expected a folder laid out as "
                             "tests/goldens/valor_tiny/data"),
    ('{"videoswin": {}}', "lacks checkpoint.pt, vocab.txt, inputs.safetensors, outputs.safetensors; expected a folder laid out as "
                          "tests/goldens/valor_tiny/videoswin"),
])
def test_a_folder_of_something_else(tmp_path, content, message):
    if content is not None:
        (tmp_path / "golden.json").write_text(content)
    found = check(tmp_path)
    assert found.status == 2 and message in found.text and str(tmp_path) in found.text
    assert "no such folder" in check(tmp_path / "absent").text


def test_groups_have_a_star_for_modalities_and_no_number():
    for name, group in (("feat_va", "feat_*"), ("caption_output", "caption_output"), ("cap_ids.tva.beam3[2]", "cap_ids.*.beam3"),
                        ("weight_tva_va", "weight_*_*"), ("pretrain.total", "pretrain.total"),
                        ("sim_tva_late_fusion", "sim_*_late_fusion")):
        assert Row("output", name, 0.0, 0.0).group == group
    assert Row("gradient", "contra_temp", 0.0, 0.0, of="gradient_norms").group == "gradient_norms"


def test_lines_are_found_by_name_and_nothing_is_left_out():
    def twice(source, name):
        if name == "bad":
            raise UnsupportedError("a bad one")
        return 2 * source[name]

    lines = (Line(r"given_\w+"), Line(r"twice_(\w+)", twice), Line("late", lacking="what comes later"))
    recorded = {"given_x": 1.0, "twice_a": 2.0, "twice_b": 5.0, "twice_bad": 1.0, "late": 1.0, "other": 1.0}
    rows = list(check_lines(lines, "loss", recorded, {"a": 1.0, "b": 2.0}, lambda *which: [compare_number("loss", *which)]))
    assert [(row.name, row.ok) for row in rows] == [("twice_a", True), ("twice_b", False), ("twice_bad", False), ("late", False),
                                                    ("other", False)]
    assert [row.note for row in rows[2:]] == ["not supported by this version: a bad one", "not supported by this version: what comes later",
                                              "not supported by this version: it computes nothing of this name"]


def test_numbers_and_tensors_are_compared():
    rows = {row.name: row for row in compare_numbers("gradient", {"a": 1.0, "small": 2e-9, "new": 0.5, "noise": 1e-9},
                                                     {"a": 1.00005, "small": 1e-9, "gone": 1.0}, noise=1e-8)}
    assert rows["a"].ok and rows["a"].error == pytest.approx(5e-5, rel=1e-3) and rows["small"].ok and "noise" not in rows
    assert rows["new"].note == "not recorded" and rows["gone"].note == "has no gradient here"
    assert not compare_tensor("x", torch.zeros(2), torch.zeros(3)).ok
    assert compare_tensor("x", torch.tensor([1, 2, 4]), torch.tensor([1, 2, 3])).error == 1
    assert not compare_tensor("x", torch.tensor([math.nan]), torch.ones(1)).ok
    assert compare_number("loss", "x", 0.0, 0.0).ok and not compare_number("loss", "x", 1e-3, 0.0).ok
