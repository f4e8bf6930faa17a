"""Recipes, from the server and without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api.conftest import Api, LiveServer, good_sweep
from trainer.recipes import RECIPES
from winnow.load import parse_yaml
from winnow.training import Training


def cli(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WINNOW_")}
    return subprocess.run(
        [sys.executable, "-m", "winnow.cli.main", *arguments],
        env=clean | {"COLUMNS": "120"} | env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(params=["with a server", "without one"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if request.param == "without one":
        return {"WINNOW_HOME": str(tmp_path / "none")}
    live: LiveServer = request.getfixturevalue("live")
    return {"WINNOW_URL": live.url, "WINNOW_TOKEN": live.token}


def plain(fields: Any) -> Any:
    return json.loads(json.dumps(dict(fields)))


def test_the_api_tells_every_recipe_with_its_fields_and_the_defaults_of_the_rest(api: Api) -> None:
    found = api.http.get("/v1/recipes").json()["items"]
    assert {r["name"]: r["fields"] for r in found} == {n: plain(f) for n, f in RECIPES.items()}
    lab = api.http.get("/v1/recipes/lab").json()
    assert lab["defaults"]["zero_stage"] == 1
    # Each setting is told once; the warmup that the recipe doesn't use isn't offered.
    assert {*lab["fields"], *lab["defaults"]} == set(Training.model_fields) - {"warmup_ratio"}
    assert not set(lab["fields"]) & set(lab["defaults"])


def test_an_unknown_recipe_is_not_found(api: Api) -> None:
    assert api.http.get("/v1/recipes/orca").status_code == 404
    assert api.http.get("/v1/recipes/tulu++").status_code == 200
    assert api.http.get("/v1/recipes/tulu%2B%2B").status_code == 200


def test_the_list_names_all_and_their_main_values(where: dict[str, str]) -> None:
    rows = cli("recipes", **where).stdout.splitlines()
    assert [row.split()[0] for row in rows[1:5]] == list(RECIPES)
    assert rows[3].split()[1:4] == ["3,840", "2.00e-05", "constant"]
    assert json.loads(cli("recipes", "--json", **where).stdout)["lab"] == plain(RECIPES["lab"])


def test_one_recipe_is_shown_field_by_field_with_unit_and_source(where: dict[str, str]) -> None:
    shown = cli("recipes", "show", "lab-7680", **where).stdout
    for field in RECIPES["lab-7680"]:
        assert field in shown
    rows = {row.split()[0]: row for row in shown.splitlines() if row.strip()}
    assert rows["effective_batch_size"].split()[1:] == [
        *("7,680", "samples", "a", "step", "arXiv", "2412.13337")
    ]
    assert rows["weight_decay"].split()[-1] == "pinned"


def test_as_yaml_it_is_a_training_section_that_says_the_same(
    where: dict[str, str], api: Api
) -> None:
    section = parse_yaml(cli("recipes", "show", "tulu++", "--yaml", **where).stdout)
    assert section["training"] == plain(RECIPES["tulu++"])
    assert api.post(good_sweep() | section).status_code == 201


def test_a_recipe_that_does_not_exist_is_refused_with_those_that_do(where: dict[str, str]) -> None:
    done = cli("recipes", "show", "orca", **where)
    assert done.returncode == 2
    assert "there are tulu, tulu++, lab, lab-7680" in done.stderr


def test_fetching_a_model_says_where_it_is(tmp_path: Path) -> None:
    base = Path(__file__).parents[3] / "examples" / "base"
    done = cli("model", "fetch", str(base), "--json")
    assert json.loads(done.stdout)["folder"] == str(base)
    assert json.loads(done.stdout)["bytes"] > 1e5
    missing = cli("model", "fetch", str(tmp_path / "none"))
    assert missing.returncode == 2
    assert str(tmp_path / "none") in missing.stderr
    assert "Traceback" not in missing.stderr
