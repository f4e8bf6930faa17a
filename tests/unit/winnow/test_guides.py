"""What the guides show is what winnow takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.plan import any_params, resolve, validate_space
from winnow.load import parse_yaml
from winnow.spec import Space, SweepSpec

DOCS = Path(__file__).resolve().parents[3] / "docs"
GUIDES = sorted(DOCS.glob("guide-*.md"))


def test_the_sweep_file_of_the_guide_is_valid() -> None:
    text = (DOCS / "guide-sweep-file.md").read_text(encoding="utf-8")
    whole, conditional = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    spec = SweepSpec.model_validate(parse_yaml(whole))
    assert validate_space(spec) == []
    config = resolve(spec, any_params(spec), output_dir="-", cache_dir="-")
    assert config.data.train[1].weight == 2
    conditions = SweepSpec.model_validate(parse_yaml(whole) | parse_yaml(conditional))
    assert validate_space(conditions) == []
    assert len(conditions.rules.when) == len(conditions.constraints) == 2


def test_the_guide_names_every_parameter_that_can_vary() -> None:
    text = (DOCS / "guide-sweep-file.md").read_text(encoding="utf-8")
    listed = text[text.index("These can vary:") : text.index("Where the strategy varies")]
    assert {name for name in Space.model_fields if f"`{name}`" not in listed} == set()


@pytest.mark.parametrize("guide", GUIDES, ids=[g.stem for g in GUIDES])
def test_the_files_that_a_guide_links_exist(guide: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", guide.read_text(encoding="utf-8"))
    assert [link for link in links if not (guide.parent / link).exists()] == []
