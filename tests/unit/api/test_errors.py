"""What an error says to the caller, and what it must not."""

from __future__ import annotations

import json

from api.errors import ProblemError, as_problem
from orchestrator.errors import StoreUnavailable
from winnow.types import FieldError


def test_a_database_that_is_away_is_a_matter_of_time() -> None:
    problem = as_problem(StoreUnavailable("the database does not answer"))
    assert (problem.status, problem.headers) == (503, {"Retry-After": "2"})


def test_no_problem_repeats_a_secret() -> None:
    token = "wnw_AbCdEfGh1234567890"
    field = FieldError(pointer="/model", message=f"401 for {token}")
    body = bytes(ProblemError(422, "x", f"not {token}", errors=[field]).response("r1").body)
    assert token.encode() not in body
    told = json.loads(body)
    assert (told["detail"], told["errors"][0]["message"]) == ("not [secret]", "401 for [secret]")
    assert told["request_id"] == "r1"
