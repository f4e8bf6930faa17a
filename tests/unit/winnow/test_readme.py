"""What the README shows is what winnow takes."""

from __future__ import annotations

import re
from pathlib import Path

from winnow.load import parse_yaml
from winnow.spec import SweepSpec

README = Path(__file__).resolve().parents[3] / "README.md"


def test_the_sweep_file_in_the_readme_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    spec = SweepSpec.model_validate(parse_yaml(block))
    assert spec.resources.ranks == 1


def test_the_files_that_the_readme_links_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
