import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from omnivast.evaluation.report.charts import Dots, Series, dot_chart, line_chart, nice_ticks, running_mean, thinned
from omnivast.evaluation.report.page import Card, Cell, Line, Picture, Report, jpeg_uri, loss_chart


def test_charts_are_well_formed_and_escaped():
    wild = Series("a <b>", [(n, 2.0 + n % 3) for n in range(500)] + [(500, float("nan"))])
    chart = line_chart("loss & more", [wild, Series("empty", [])], smooth=20)
    root = ElementTree.fromstring(chart)
    assert root.get("aria-label") == "loss & more" and "a <b>" in "".join(root.itertext())
    assert "nan" not in chart and line_chart("nothing", [Series("x", [])]) == ""
    assert ElementTree.fromstring(dot_chart("r", ["a", "b"], [Dots("v", [10.0, None]), Dots("vas", [120.0, 3.0])])) is not None


def test_ticks_cover_the_range_with_round_numbers():
    assert nice_ticks(0, 100, 4) == [0, 25, 50, 75, 100]
    assert nice_ticks(0, 0.0031)[-1] >= 0.0031
    assert len(nice_ticks(2.0, 2.0)) >= 2


def test_curves_are_averaged_and_thinned_without_losing_the_end():
    points = [(float(n), float(n)) for n in range(10)]
    assert running_mean(points, 3)[:4] == [(0.0, 0.0), (1.0, 0.5), (2.0, 1.0), (3.0, 2.0)]
    assert thinned(points, 5)[0] == (0.5, 0.5) and thinned(points, 5)[-1] == (9.0, 9.0) and thinned(points, 10) == points


def test_loss_chart_names_the_losses_of_the_log():
    rows = [{"step": n, "loss": 3.0, "losses": {"loss": 3.0, "itc": 2.0, "cap": 1.0, "itc.tvas": 2.0}} for n in range(1, 50)]
    words = "".join(ElementTree.fromstring(loss_chart("t", rows)).itertext())
    assert "total" in words and "contrastive" in words and "caption" in words and "matching" not in words
    single = loss_chart("t", [{"step": 1, "losses": {"loss": 1.0, "qa": 1.0}}, {"step": 2, "losses": {"loss": None, "qa": None}}])
    assert "answer" in single and "total" not in single and loss_chart("t", []) == ""


def test_page_holds_everything_and_escapes_it(tmp_path):
    uri = jpeg_uri(torch.randint(0, 255, (3, 40, 60), dtype=torch.uint8), side=20)
    card = Card("clip <1>", "aside", [Picture(uri, "frame")], [Line("said", "“x & y”")],
                [("found", [Picture(uri, "other", "1.", right=True)]), ("asked", [Line("q?", "no", False), Line("q2?", "yes", True)])])
    report = Report("A <title>", "sub").section("One", "note").text("a < b")
    report.table(["", "x"], [["row", 1.25], ["none", None], ["best", Cell("9", "best")]], over=[("", 1), ("all", 1)], muted=[1])
    path = report.charts(["<svg></svg>", ""]).charts([]).gallery([card]).write(tmp_path / "new" / "report.html")
    page = path.read_text()
    assert "A &lt;title&gt;" in page and "clip &lt;1&gt;" in page and "a &lt; b" in page and "“x &amp; y”" in page
    assert page.count("data:image/jpeg") == 2 and page.count("✓ right") == 1 and page.count("✗ wrong") == 1
    assert "<td>1.2</td>" in page and "<td>–</td>" in page and '<td class="best">9</td>' in page
    assert not re.search(r"<script|https?://|@import", page)
    body = re.sub(r"<!doctype html>|<meta[^>]*>|<(img|br)[^>]*>|<style>.*</style>", "", page, flags=re.S).replace("class=muted", "")
    ElementTree.fromstring(body)


def test_pictures_are_small():
    uri = jpeg_uri(torch.zeros(3, 500, 300, dtype=torch.uint8), side=100)
    assert uri.startswith("data:image/jpeg;base64,") and len(uri) < 3000


@pytest.mark.parametrize("value", [0.0, 100.0])
def test_dots_stay_inside_the_chart(value):
    places = re.findall(r'cx="([\d.]+)"', dot_chart("t", ["x"], [Dots("v", [value])]))
    assert all(0 < float(place) < 420 for place in places)
