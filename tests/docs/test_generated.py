"""Pages say what the code says, and those that the project makes itself are as it would make them now."""

from __future__ import annotations

from omnivast.config.extras import EXTRAS
from omnivast.config.reference import reference
from omnivast.scripts.tools.draw_architecture import figure
from tests.docs.pages import ROOT


def test_settings_are_those_of_the_schema():
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == reference(), "write it anew: python -m omnivast config-reference > docs/config.md"


def test_figure_is_the_one_that_is_drawn():
    drawn = (ROOT / "docs" / "architecture.svg").read_text()
    assert drawn == figure(), "draw it anew: python -m omnivast.scripts.tools.draw_architecture docs/architecture.svg"


def test_every_extra_is_explained():
    page = (ROOT / "docs" / "install.md").read_text()
    assert [extra for extra in EXTRAS.values() if f"`{extra}`" not in page] == []
