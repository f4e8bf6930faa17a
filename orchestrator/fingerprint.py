"""What makes two trials the same run, so that one can take over the result of the other. Pure.

Two runs with one fingerprint have the same settings, seed, data, chat template, model and code,
wherever the files lie and whatever was kept on the way. A run whose data or model can't be
identified has none, and is never taken for another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from trainer.config import source_key

LEFT_OUT = frozenset(
    {
        "output_dir",
        "store",
        "recipe",  # its values are in the configuration
        "roots",
        "checkpoint_at",
        "checkpoint_every_seconds",
        "keep_checkpoints",
    }
)
"""Fields of TrainConfig that decide where things go and what is kept, not what comes out."""
_SETS = ("train", "eval", "test", "general")
_VERSION = 1


def fingerprint(config: Mapping[str, Any], facts: Mapping[str, Any], code: str) -> str | None:
    """A run's fingerprint, 64 hexadecimal digits; None if what it reads isn't identified.

    Args:
        config: the trial's TrainConfig as JSON values.
        facts: what the check of the sweep found. `facts["identity"]` maps each path of the
            configuration (of a data set its `source_key`) to a digest of its content.
        code: what trains: winnow's version, and whatever else changes a result (GPU or CPU).
    """
    found = facts.get("identity")
    if not isinstance(found, Mapping):
        return None
    identity = cast("Mapping[str, Any]", found)
    try:
        settings = _by_content(config, identity)
    except KeyError:
        return None
    whole = {"version": _VERSION, "code": code, "settings": settings}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _by_content(config: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with each path replaced by what it holds. KeyError: one isn't known."""
    settings = {name: value for name, value in config.items() if name not in LEFT_OUT}
    if not settings.get("keep_best"):
        settings.pop("eval_at", None)  # measuring on the way changes nothing
    if not settings.get("trust_remote_code"):  # else the revision is that of the code that runs
        settings.pop("trust_remote_code", None)
        settings.pop("model_revision", None)
    settings["model"] = _digest(identity, settings["model"])
    data = dict(settings["data"])
    data.pop("cache_dir", None)
    for name in _SETS:
        data[name] = [_source(entry, identity) for entry in data.get(name) or ()]
    if data.get("chat_template") is not None:
        data["chat_template"] = _digest(identity, data["chat_template"])
    settings["data"] = data
    lm_eval, judge = settings.get("lm_eval"), settings.get("judge")
    if lm_eval and lm_eval.get("include_path") is not None:
        path = _digest(identity, lm_eval["include_path"])
        settings["lm_eval"] = {**lm_eval, "include_path": path}
    if judge:
        kept = {k: v for k, v in judge.items() if k not in ("concurrency", "timeout")}
        settings["judge"] = {**kept, "questions": _digest(identity, judge["questions"])}
    return settings


def _source(entry: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    key = source_key(entry["path"], entry.get("subset"), entry.get("split"))
    kept = {k: v for k, v in entry.items() if k not in ("path", "subset", "split")}
    return {**kept, "content": _digest(identity, key)}


def _digest(identity: Mapping[str, Any], key: str) -> str:
    digest = identity[key]
    if not isinstance(digest, str) or not digest:
        raise KeyError(key)
    return digest
