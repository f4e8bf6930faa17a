"""Every page's links lead somewhere, and the map of the code names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    page
    for place in (
        "*.md",
        "docs/**/*.md",
        "dashboard/*.md",
        "benchmarks/**/*.md",
        "examples/**/*.md",
    )
    for page in ROOT.glob(place)
)
ROOMS = {
    "The rooms": "",
    "Inside the trainer": "trainer",
    "Inside the study": "orchestrator/study",
    "Inside the schedulers": "orchestrator/schedulers",
    "Inside the API": "api",
}
"""By heading of docs/architecture.md: the folder whose files its table names."""

_CODE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    dead = [link for link in _LINK.findall(prose(page)) if not leads_somewhere(page, link)]
    assert dead == []


def leads_somewhere(page: Path, link: str) -> bool:
    name, _, heading = link.partition("#")
    there = page.parent / name if name else page
    return there.exists() and (not heading or heading in headings(there))


def headings(page: Path) -> set[str]:
    """As GitHub writes them in addresses."""
    found = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text).strip().lower().replace(" ", "-") for text in found}


def prose(page: Path) -> str:
    return _CODE.sub("", page.read_text("utf-8"))


@pytest.mark.parametrize("heading", ROOMS)
def test_the_map_names_what_there_is(heading: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    firsts = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    named = [name for first in firsts for name in re.findall(r"`([\w/]+(?:\.py|/))`", first)]
    assert named
    assert [name for name in named if not (ROOT / ROOMS[heading] / name).exists()] == []


def test_every_room_of_the_orchestrator_and_every_file_of_the_api_is_on_the_map() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rooms = (p.name for p in (ROOT / "orchestrator").iterdir() if (p / "__init__.py").exists())
    files = (p.name for p in (ROOT / "api").glob("*.py") if not p.name.startswith("__"))
    missing = [f"orchestrator/{room}/" for room in rooms if f"`orchestrator/{room}/`" not in page]
    missing += [name for name in files if f"`{name}`" not in page]
    assert missing == []
