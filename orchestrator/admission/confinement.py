"""What a sweep may open, keep, reach and run: asked when it is submitted.

The ranks ask again when they open something (`trainer.roots`, `trainer.code`,
`trainer.evaluate.outbound`): between the two, links can be turned and names can get new addresses.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from trainer import code
from trainer import roots as confined
from trainer.config import ANYWHERE, Roots
from trainer.errors import TrainerError
from trainer.evaluate.outbound import is_public
from winnow.load import HUB_ID, SETS, is_hub_data, pointer
from winnow.spec import SweepSpec

Found = tuple[str, str]
"""(JSON pointer, message)."""

LONGEST_PATH = 4096


@dataclass(frozen=True)
class Limits:
    """`stores`: what addresses of stores begin with; None: anything. `revisions`: of a model, at
    which its own code may run."""

    roots: Roots = ANYWHERE
    stores: Sequence[str] | None = None
    revisions: Callable[[str], frozenset[str]] = lambda model: frozenset()


NO_LIMITS = Limits()


def forbidden(spec: SweepSpec, limits: Limits) -> list[Found]:
    """All that the sweep names and may not have, by where it is named."""
    found: list[Found] = []
    for at, path in local_paths(spec):
        found += _path(at, path, limits.roots.data)
    if spec.model.startswith("/"):
        found += _path("/model", spec.model, limits.roots.models)
    found += _store(spec.checkpoints.store, limits.stores)
    if spec.evaluation.judge is not None:
        message = _judge(spec.evaluation.judge.base_url, private=limits.roots.private_judges)
        if message is not None:
            found.append(("/evaluation/judge/base_url", message))
    return found


def local_paths(spec: SweepSpec) -> Iterator[Found]:
    """(JSON pointer, path) of everything that is read from the server's disks but the model."""
    for name in SETS:
        for i, file in enumerate(getattr(spec.data, name)):
            if not is_hub_data(file.path):
                yield pointer("data", name, i, "path"), file.path
    if spec.data.chat_template is not None:
        yield "/data/chat_template", spec.data.chat_template
    lm_eval, judge = spec.evaluation.lm_eval, spec.evaluation.judge
    if lm_eval is not None and lm_eval.include_path is not None:
        yield "/evaluation/lm_eval/include_path", lm_eval.include_path
    if judge is not None:
        yield "/evaluation/judge/questions", judge.questions


def pinned(spec: SweepSpec, limits: Limits) -> tuple[SweepSpec, list[Found]]:
    """The sweep with the revision of the code that it runs, or why that code may not run.

    Reads the code's files, and runs none of it.
    """
    local = spec.model.startswith("/")
    if not spec.trust_remote_code:
        if local and spec.model_revision is not None:
            message = "a folder has no revision; leave it out, or give the id of a model of the hub"
            return spec, [("/model_revision", message)]
        return spec, _tasks(spec, limits)
    revision = spec.model_revision
    if local:
        try:
            now = code.digest(confined.folder(spec.model, limits.roots.models))
        except TrainerError as error:
            return spec, [("/model", str(error))]
        if now == code.digest_of_nothing():
            message = "the model brings no code of its own (no .py file); leave it out"
            return spec, [("/trust_remote_code", message)]
        if revision is not None and revision != now:
            message = f"the code in {spec.model} is {now} now; give that, or put the files back"
            return spec, [("/model_revision", message)]
        revision = now
    elif revision is None or not code.COMMIT.fullmatch(revision):
        message = (
            "name the commit whose code is to run (40 hexadecimal digits): a branch or a tag can "
            "be moved to other code"
        )
        return spec, [("/model_revision", message)]
    if revision not in limits.revisions(spec.model):
        message = (
            f"the code that comes with {spec.model} may not run here; an admin can read it and "
            f"allow it: `winnow code allow {spec.model} --revision {revision}`"
        )
        return spec, [("/trust_remote_code", message)]
    return spec.model_copy(update={"model_revision": revision}), _tasks(spec, limits)


def allowable(model: str, revision: str | None, roots: Roots) -> tuple[str, Found | None]:
    """The revision at which a model's code, or a folder of tasks, is to be allowed; or what is
    wrong with the request, with a pointer into it."""
    if not model.startswith("/"):
        if not HUB_ID.fullmatch(model):
            return "", ("/model", "give a hub id like org/name, or the absolute path of a folder")
        if revision is None or not code.COMMIT.fullmatch(revision):
            return "", (
                "/revision",
                "give the commit (40 hexadecimal digits): a branch or a tag can be moved to other "
                "code",
            )
        return revision, None
    faults = list(_path("/model", model, None))
    if faults:
        return "", faults[0]
    if revision is not None and not revision.startswith("sha256-"):
        return "", ("/revision", "a folder's revision is the digest of its code: sha256-…")
    # Tasks lie below the data's roots, models below their own.
    both = None
    if roots.data is not None and roots.models is not None:
        both = (*roots.data, *roots.models)
    try:
        folder = confined.folder(model, both)
        if not folder.is_dir():
            return "", ("/model", f"there is no folder {model} on the server")
        tasks = not (folder / "config.json").is_file()
        now = code.digest(folder, code.TASK_CODE if tasks else code.MODEL_CODE)
    except TrainerError as error:
        return "", ("/model", str(error))
    if now == code.digest_of_nothing():
        return "", ("/model", f"{model} holds no code, so there is nothing to allow")
    if revision is not None and revision != now:
        return "", ("/revision", f"the code in {model} is {now} now; read it again, and give that")
    return now, None


def tasks_digest(spec: SweepSpec, limits: Limits) -> str | None:
    """The digest that the sweep's own task files must have when they are run; None: any."""
    lm_eval = spec.evaluation.lm_eval
    if lm_eval is None or lm_eval.include_path is None or limits.roots.data is None:
        return None
    folder = confined.folder(lm_eval.include_path, limits.roots.data)
    return code.digest(folder, code.TASK_CODE)


def _tasks(spec: SweepSpec, limits: Limits) -> list[Found]:
    """Task files name functions and hold templates that can reach any: they are code too."""
    lm_eval, at = spec.evaluation.lm_eval, "/evaluation/lm_eval/include_path"
    try:
        digest = tasks_digest(spec, limits)
    except TrainerError as error:
        return [(at, str(error))]
    if digest is None or lm_eval is None or lm_eval.include_path is None:
        return []
    if digest in limits.revisions(lm_eval.include_path):
        return []
    message = (
        "task files can run code, so an admin has to have read and allowed them: "
        f"`winnow code allow {lm_eval.include_path} --revision {digest}`"
    )
    return [(at, message)]


def _path(at: str, path: str, roots: Sequence[str] | None) -> Iterator[Found]:
    if not path.startswith("/"):
        return  # said by whoever asks for absolute paths
    if len(path) > LONGEST_PATH or any(len(part.encode()) > 255 for part in path.split("/")):
        yield at, "is longer than a path can be"
    elif not path.isprintable():
        yield at, "holds control characters or characters that aren't seen; use a plain path"
    elif ".." in path.split("/"):
        yield at, "goes up with '..'; write the path that is meant"
    else:
        try:
            confined.resolved(path, roots)
        except (TrainerError, OSError) as error:
            yield at, str(error)


def _store(store: str | None, stores: Sequence[str] | None) -> Iterator[Found]:
    if store is None:
        return
    at = "/checkpoints/store"
    scheme, remote, rest = store.partition("://")
    if not store.isprintable() or len(store) > LONGEST_PATH:
        yield at, "is too long, or holds characters that aren't seen; write a plain address"
    elif "::" in store or (remote and ("?" in rest or "#" in rest)):
        yield at, "holds :: or a query; give a plain address like s3://bucket/folder"
    elif ".." in store.split("/"):
        yield at, "goes up with '..'; write the address that is meant"
    elif remote and ":" in rest.partition("/")[0].rpartition("@")[0]:
        yield (
            at,
            "holds a password; leave it out and set the store's credentials in the environment of "
            "the workers",
        )
    elif scheme == "file" and remote:
        yield at, f"write the folder's path: {rest if rest.startswith('/') else '/' + rest}"
    elif stores is not None and not any(
        _starts(store, root, remote=bool(remote)) for root in stores
    ):
        allowed = ", ".join(stores) or "the server's own folder only (leave store out)"
        yield at, f"checkpoints can't be kept there; this server keeps them in {allowed}"


def _starts(store: str, root: str, *, remote: bool) -> bool:
    if not remote:
        return "://" not in root and confined.is_below(store, [root])
    return store == root.rstrip("/") or store.startswith(root.rstrip("/") + "/")


def _judge(base_url: str, *, private: bool) -> str | None:
    """Why a judge can't be at an address. Names are looked up when the connection is made."""
    if not base_url.isprintable() or any(c in base_url for c in " \\#"):
        return "holds a space, a backslash, a fragment or characters that aren't seen"
    try:
        parts = urlsplit(base_url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return "is no address; write https://host/v1"
    if not host:
        return "names no host; write https://host/v1"
    if private:
        return None
    if parts.scheme != "https":
        return "begin it with https://, so that the key can't be read on the way"
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return _not_public(host)
    literal = _literal(host)
    if literal is not None and not is_public(literal):
        return _not_public(host)
    return None


def _not_public(host: str) -> str:
    return (
        f"{host} is no address of the public internet, and this server's judges have to be there; "
        "whoever runs it can allow others (WINNOW_PRIVATE_JUDGES)"
    )


def _literal(host: str) -> str | None:
    """A host in numbers, also in the forms that only resolvers read (127.1, 0x7f.1, 2130706433)."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None
