"""What of the server's environment is passed on, and what of it must never be seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.environment import Environment
from orchestrator.settings import Settings

SERVER = {
    "HTTPS_PROXY": "http://ann:proxy-password@proxy.example:3128",
    "NO_PROXY": "localhost",
    "HF_TOKEN": "hf_madeup",
    "HF_HUB_OFFLINE": "1",
    "SSL_CERT_FILE": "/etc/ssl/own.pem",
    "JUDGE_API_KEY": "judge-key",
    "OTHER_API_KEY": "other-key",
    "WINNOW_DATABASE_URL": "postgresql://u:database-password@h/d",
    "AWS_SECRET_ACCESS_KEY": "aws-secret",
    "HF_ENDPOINT": "",
    "PATH": "/bin",
}


def test_proxies_certificates_and_the_hubs_settings_are_passed_on_and_nothing_else() -> None:
    passed = Environment.of(SERVER)
    assert {n for n in passed if not n.endswith("_API_KEY")} == {
        *("HTTPS_PROXY", "NO_PROXY", "HF_TOKEN", "HF_HUB_OFFLINE", "SSL_CERT_FILE"),
    }
    assert Environment.of(SERVER, also=["AWS_SECRET_ACCESS_KEY"])["AWS_SECRET_ACCESS_KEY"]


def test_a_sweeps_workers_get_the_key_that_it_names_and_no_other() -> None:
    passed = Environment.of(SERVER)
    assert "JUDGE_API_KEY" in passed
    assert not {n for n in passed.for_worker() if n.endswith("_API_KEY")}
    named = passed.for_worker("JUDGE_API_KEY")
    assert (named["JUDGE_API_KEY"], "OTHER_API_KEY" in named) == ("judge-key", False)
    assert named["HF_TOKEN"] == "hf_madeup"


def test_tokens_keys_and_passwords_are_secrets() -> None:
    passed = Environment.of(SERVER, also=["AWS_SECRET_ACCESS_KEY"])
    assert passed.secrets() == {
        *("hf_madeup", "judge-key", "other-key", "proxy-password", "aws-secret"),
    }


def test_it_never_shows_a_value() -> None:
    passed = Environment.of(SERVER)
    assert "HF_TOKEN" in repr(passed)
    for text in (repr(passed), str(passed), f"{passed}"):
        assert "madeup" not in text
        assert "password" not in text


def test_settings_hold_it_with_the_names_that_were_added(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_madeup")
    monkeypatch.setenv("MY_GRADER", "grader-secret")
    monkeypatch.setenv("WINNOW_PASS_ENVIRONMENT", "MY_GRADER, OTHER")
    settings = Settings(home=tmp_path, database_url="postgresql://u:database-password@h/d")
    assert settings.environment["MY_GRADER"] == "grader-secret"
    assert settings.environment.for_worker("MY_GRADER")["MY_GRADER"] == "grader-secret"
    assert {"hf_madeup", "database-password"} <= settings.secrets()
    assert "hf_madeup" not in repr(settings)
