"""Every page that the project makes, opened in a real browser at four widths and measured."""

from __future__ import annotations

import json

import pytest
import torch

from omnivast.evaluation.report import run_report
from omnivast.evaluation.report.charts import Dots, Series, bar_chart, dot_chart, line_chart
from omnivast.evaluation.report.markup import html_text
from omnivast.evaluation.report.page import Card, Cell, Line, Picture, Report, jpeg_uri, sound_of
from omnivast.scripts.omnistamps import quickstart_summary
from tests import browser
from tests.scripts.omnistamps.quickstart_tree import make_data, make_results, write

WIDTHS = (360, 800, 1200, 1440)
PAPER = 700
"""A4 between its margins, px."""
QUESTION = "what animal or thing is seen while someone talks about a propeller hat and somewhere behind them all a magpie is heard?"
WORD = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 3
PATH = "/data/corpora/2026/vast27m_pretrain/clips/part-00017/v_ApplyEyeMakeup_g01_c01.segment-0012.mp4"
HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
GROUPS = ("tv", "ta", "ts", "tva", "tvs", "tas", "tvas")


def hostile() -> Report:
    """A page with everything that a report may hold, each as long as it comes."""
    uri = jpeg_uri(torch.randint(0, 255, (3, 90, 160), dtype=torch.uint8))
    tone = 0.5 * torch.sin(torch.arange(16000) * 0.17)
    retrieved = [Picture(uri, f"{PATH} · {WORD} · magpie", f"{place}.", place == 2) for place in range(1, 6)]
    answers = [Line(QUESTION, "propeller hat (true: blackbird)", False), Line(QUESTION, "magpie", True), Line(WORD, WORD),
               Line("why?", PATH)]
    cards = [
        Card("propeller hat · blackbird · magpie", "test00123", [Picture(uri, "frame")] * 4,
             [Line("subtitle", QUESTION), Line("media", f"not shown: {PATH}: cannot be read")],
             [("Retrieved for “a magpie” (rank 1,234)", retrieved), ("Questions", answers)], sound_of(tone, 16000)),
        Card(WORD, PATH, [Picture(uri, "frame")], [Line("model", WORD), Line(f"reference {HASH}", QUESTION)],
             [(f"Found {WORD}", retrieved)]),
        Card("Best 1", PATH, [], [Line("question", QUESTION), Line("model", "(nothing)", False), Line("answer", "no ×7, yes ×3")]),
    ]
    report = Report(f"Report of {PATH}", " · ".join([PATH, HASH, WORD]))
    report.section(f"Training: {PATH}", PATH).text(f"{QUESTION} {WORD} {PATH}")
    metrics = ["R@1", "95 % interval", "R@5", "R@10", "R@50", "median rank", "mean rank", "METEOR", "SPICE"]
    report.table(["group", *metrics], [[group, 55.5, "53.1 – 58.0", *[100.0] * 5, None, 12.25] for group in GROUPS])
    report.table([WORD, "cases", "text at rank 1, %"], [[PATH, "12,345", 99.5], [QUESTION, "1", Cell("100.0", "best")]], caption=QUESTION)
    report.table(["protocol", ""], [[HASH, Cell(HASH, "left")], ["split file", Cell(PATH, "left")], ["x", Cell(WORD, "left")]], small=True)
    report.table(["", "retrieval", "caption", "questions"], [[name, *[Cell(text, "left")] * 3] for name, text in
                                                             (("split_sha256", HASH), ("split_file", PATH), ("groups", "tv, ta, tvas"))])
    names = [*GROUPS, "contrastive, of all clips", WORD, PATH]
    lines = [Series(name, [(step, 10.0 ** (number % 3) * step) for step in range(30)]) for number, name in enumerate(names)]
    report.charts([line_chart("Losses on vast27m_pretrain_vision_audio_subtitle, the second half of it", lines[7:8], smooth=3),
                   line_chart(f"Losses on {PATH}", lines[:7]), line_chart(QUESTION, lines),
                   line_chart("small", [Series("vision_encoder", [(1, 1234567.0), (100000, 7654321.0)])])])
    report.charts([dot_chart(f"R@1 by group of {PATH}", ["re-ranked by the matching score", "contrastive score alone", "ceiling", "chance"],
                             [Dots(name, [10.0, 50.0, 99.0, 1.0]) for name in names]),
                   dot_chart("Questions", ["model"], [Dots("vision", [0.0]), Dots(QUESTION, [100.0])])], wide=True)
    report.charts([bar_chart(QUESTION, [(0.0, 0.1, 1.0)], x_label="seconds"),
                   bar_chart(WORD, [(n * 1e5, (n + 1) * 1e5, 1234567.0 * n) for n in range(40)], x_label="clips of a source"),
                   bar_chart("nothing", [], x_label="")])
    return report.section("Test clips").gallery(cards).gallery(cards, wall=True)


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """The quickstart's page and that of runs, with long questions, and a page of hostile content."""
    folder = tmp_path_factory.mktemp("pages")
    make_data(folder / "data")
    make_results(folder / "run", folder / "data")
    answered = folder / "run" / "test_qa" / "results" / "omnistamps.qa.json"
    content = json.loads(answered.read_text())
    content["protocol"]["checkpoint_sha256"] = HASH
    for entry in content["predictions"]:
        entry["question"] = QUESTION
    write(answered, content)
    assert quickstart_summary.main(["--folder", str(folder / "run"), "--data", str(folder / "data")]) == 0
    runs = [str(folder / "run" / name) for name in ("pretrain", "test_ret", "test_cap", "test_qa")]
    assert run_report.main([*runs, "--output", str(folder / "runs.html")]) == 0
    return {"quickstart": (folder / "run" / "report.html").read_text(), "runs": (folder / "runs.html").read_text(),
            "hostile": hostile().html()}


def test_nothing_is_squeezed_cut_off_or_wider_than_the_window(pages, tmp_path):
    assert browser.faults(pages, WIDTHS, tmp_path) == {}


def test_nor_is_it_on_paper(pages, tmp_path):
    printed = {name: page.replace("@media print", "@media all") for name, page in pages.items()}
    assert browser.faults(printed, (PAPER,), tmp_path) == {}


BROKEN = {
    "a column of one letter a line": ('<dl style="display:grid;grid-template-columns:max-content 1fr;width:300px;overflow-wrap:anywhere">'
                                      f"<dt>{QUESTION[:45]}</dt><dd>propeller hat</dd></dl>", "breaks"),
    "a word out of its cell": ("<table style='table-layout:fixed;width:100px'><tr><td>propellerhat<td>magpie</table>",
                               "is wider than its td"),
    "a text cut off": ('<p style="width:60px;overflow:hidden;white-space:nowrap">propeller hat', "cuts off 'hat'"),
    "a wide box": ('<div style="width:2000px">x</div>', "the page is"),
    "a narrow table that scrolls": ('<div class="scroll" style="overflow:auto"><table><thead><tr><th>a<th>b</thead><tr><td>'
                                    '<div style="width:2000px">x</div></table></div>', "a table of 2 columns"),
    "a drawing's text outside": ('<svg width="80" height="20"><text x="40" y="12">propeller</text></svg>', "svg cuts off"),
    "a drawing's texts on each other": ('<svg width="99" height="20"><text x="0" y="12">one</text><text x="4" y="13">two</text></svg>',
                                        "'one' lies over 'two'"),
}


def test_the_measure_finds_each_fault(tmp_path):
    found = browser.faults({name: f"<!doctype html><body>{body}" for name, (body, _) in BROKEN.items()}, (800,), tmp_path)
    for name, (_, words) in BROKEN.items():
        assert any(words in fault for fault in found.get(f"{name} at 800 px", [])), (name, found)
    good = "<!doctype html><p>a well-set page, with words like magpie</p>"
    assert browser.faults({"good": good}, (360,), tmp_path) == {}


def test_long_words_have_places_to_break_in():
    assert html_text("a short word & more") == "a short word &amp; more" and html_text("sixteen-letters_") == "sixteen-letters_"
    assert html_text("results/step_10/x.json") == "results/<wbr>step_<wbr>10/<wbr>x.<wbr>json"
    assert html_text(f"<{'x' * 33}>") == f"&lt;{'x' * 15}<wbr>{'x' * 16}<wbr>{'x' * 2}&gt;"
    # A letter and its accents, or the parts of one emoji, stay together.
    assert html_text("e\u0301" * 10) == "e\u0301" * 8 + "<wbr>" + "e\u0301" * 2
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert all(piece.count(family) * 5 == len(piece) for piece in html_text(family * 8).split("<wbr>"))
