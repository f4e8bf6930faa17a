"""`winnow model`: models of the hub on this machine."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Annotated

import typer

from winnow.errors import WinnowError

app = typer.Typer(help="Models of the hub.", no_args_is_help=True)


@app.callback()
def models() -> None:
    """Models of the hub."""


@app.command()
def fetch(
    model: Annotated[str, typer.Argument(help="A hub id, e.g. meta-llama/Llama-3.2-3B.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Download a model to this machine, so that trials find it there.

    Proxies, certificates and the hub's settings are those of this shell: HTTPS_PROXY,
    SSL_CERT_FILE, HF_ENDPOINT, HF_HOME, HF_TOKEN.
    """
    if importlib.util.find_spec("trainer") is None:
        raise WinnowError(
            "the trainer, which downloads models, is not installed here: "
            "pip install 'winnow-sft[worker]'"
        )
    # Its progress goes to stderr, which is this terminal's.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "trainer", "fetch", model],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise typer.Exit(2)
    found = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
    print(json.dumps(found) if as_json else f"{found['folder']} ({_size(found['bytes'])})")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
