"""Settings that an orchestrator hands to drivers on other machines, in a file.

A Ray Job's environment can be read by everybody who may list jobs, and Ray writes it into its logs.
So the database's address with its password, and the tokens and keys that trials need, go into a
file of the home folder that only its owner may read. That folder is on a disk that the cluster's
nodes share: checkpoints are there too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from orchestrator.errors import WinnowError
from orchestrator.settings import Settings

HANDED_OVER = (
    "home",
    "database_url",
    "lease_seconds",
    "checkpoint_seconds",
    "report_seconds",
    "stop_seconds",
    "pass_environment",
    "log_format",
)
"""Not Ray's address: a job knows the cluster that it runs on."""


class SettingsMissing(WinnowError):
    """The file isn't there, or isn't one. Says what to do."""


def hand_over(settings: Settings) -> Path:
    """Write the file; its path."""
    variables = {f"WINNOW_{name.upper()}": str(getattr(settings, name)) for name in HANDED_OVER}
    variables |= dict(settings.environment)
    path = settings.home / "run" / "driver-settings.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(variables, file)
    draft.replace(path)
    return path


def handed_over(path: Path) -> dict[str, str]:
    """The variables in the file. Raises SettingsMissing."""
    try:
        read = json.loads(path.read_text("utf-8"))
        return {str(name): str(value) for name, value in read.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise SettingsMissing(
            f"the driver's settings can't be read from {path} ({error}); WINNOW_HOME must be a "
            "folder that all nodes of the cluster share, readable by the user that Ray runs as"
        ) from None
