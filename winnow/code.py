"""Models whose own code may run: what is asked for, and what the API answers."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from winnow.space import Strict
from winnow.spec import REVISION
from winnow.types import Model


class AllowCode(Strict):
    """Let the code that comes with a model run in trials, at one revision of it.

    `model` is a hub id, or the absolute path of a folder on the server. `revision` is the commit of
    the hub (40 hexadecimal digits) or the digest of the folder's code (`sha256-…`); of a folder it
    can be left out: then it is taken as it is now.
    """

    model: str = Field(min_length=1, max_length=255)
    revision: str | None = Field(default=None, pattern=REVISION, max_length=64)


class AllowedCode(Model):
    model: str
    revision: str
    allowed_by: str
    created_at: datetime
