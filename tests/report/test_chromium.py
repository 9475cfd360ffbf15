"""The page in a real browser: nothing goes wrong, nothing leaves it, and everybody can use it."""

from pathlib import Path
from typing import Any

import pytest

from tests.browser import look


@pytest.fixture(scope="module")
def seen(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the browser saw; the page is opened from a file, in both widths and both colour schemes."""
    script = Path(__file__).with_name("look.mjs")
    return look(script, site / "report" / "index.html", tmp_path_factory.mktemp("chromium"))


def test_no_errors_and_no_requests(seen: dict[str, Any]) -> None:
    assert seen["console"] == []
    assert seen["requests"] == []


@pytest.mark.parametrize("view", ["360 light", "360 dark", "1440 light", "1440 dark"])
def test_each_view_has_its_summary_in_the_first_screen_and_no_barriers(seen: dict[str, Any], view: str) -> None:
    assert seen["views"][view]["overflow"] == 0
    assert seen["views"][view]["violations"] == []
    assert seen["views"][view]["summaryBottom"] < 900
    assert seen["views"]["360 light"]["background"] != seen["views"]["360 dark"]["background"]


def test_tables_sort_and_scroll_by_keyboard(seen: dict[str, Any]) -> None:
    states = seen["sorting"]
    assert [state["sort"] for state in states] == [None, "ascending", "descending"]
    parameters = [[int(text.replace(",", "")) for text in state["column"]] for state in states]
    assert parameters[1] == sorted(parameters[0])
    assert parameters[2] == sorted(parameters[0], reverse=True)
    assert seen["skip"] == "#main" and seen["scrolled"] > 0


def test_numbers_are_one_click_away(seen: dict[str, Any]) -> None:
    assert seen["download"]["name"] == "comparison.csv"
    assert seen["download"]["start"].startswith("model,section,protocol,")


def test_without_script_the_page_makes_sense_and_it_prints(seen: dict[str, Any]) -> None:
    assert seen["withoutScript"]["tables"] >= 6
    assert seen["withoutScript"]["buttons"] == 0
    assert seen["pdf"] == "%PDF-"
