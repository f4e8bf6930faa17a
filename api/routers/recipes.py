"""The recipes that a sweep can start from."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from api.access import READ
from orchestrator.views import recipes
from winnow.types import Page, Recipe

router = APIRouter(prefix="/recipes", tags=["recipes"])


@router.get("", dependencies=[READ])
def list_recipes() -> Page[Recipe]:
    """All recipes, with every field that they set."""
    return Page[Recipe](items=recipes.known())


@router.get("/{name}", dependencies=[READ])
def get_recipe(name: Annotated[str, Path(pattern=r"^[a-z0-9+-]{1,32}$")]) -> Recipe:
    """One recipe."""
    return recipes.get(name)
