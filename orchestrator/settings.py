"""Settings of the server's processes (API, orchestrator, drivers), read from the environment once.

A process builds one `Settings()` at its entry and hands on what each part needs; no other module
reads the environment.
"""

from __future__ import annotations

import os
import re
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, PrivateAttr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.environment import Environment
from orchestrator.webhooks.addresses import Policy
from trainer.config import Roots

_NAME = re.compile(r"[A-Za-z0-9.-]{1,253}|[0-9A-Fa-f:.]{2,45}")


class Settings(BaseSettings):
    """Each field is set by the variable `WINNOW_<FIELD>`, e.g. `WINNOW_DATABASE_URL`."""

    model_config = SettingsConfigDict(
        env_prefix="WINNOW_", env_ignore_empty=True, extra="ignore", validate_default=True
    )

    home: Path = Path("~/.winnow")
    """Folder of all that winnow keeps on disk: database, checkpoints, logs, caches, its token."""
    database_url: str = ""
    """`sqlite:///file` or `postgresql://user:password@host/name`; default: a file in `home`."""
    lease_seconds: float = Field(default=30.0, ge=2.0, le=3600.0)
    """A driver that can't renew its lease for so long is taken for dead, and ends itself."""
    reconcile_seconds: float = Field(default=1.0, gt=0.0, le=60.0)
    """How often the orchestrator looks for sweeps to start and leases to expire."""
    checkpoint_seconds: float = Field(default=60.0, gt=0.0)
    """How often a trial writes a checkpoint to go on from after a crash."""
    report_seconds: float = Field(default=1.0, ge=0.0, le=60.0)
    """How much training a trial reports at once."""
    stop_seconds: float = Field(default=15.0, gt=0.0)
    """How long drivers have for their checkpoints when winnow stops, before they are killed."""
    share_quantum_seconds: float = Field(default=120.0, gt=0.0, le=86400.0)
    """How much a sweep must be owed, in slot-seconds, before a slot passes to it from another that
    it shares fairly with: a preempted trial costs a checkpoint and a new start."""
    launcher: Literal["process", "job"] = "process"
    """What drivers are: child processes of the orchestrator, or jobs of the Ray cluster."""
    ray_jobs_address: str | None = None
    """Where jobs are submitted, e.g. `http://head:8265` (the cluster's dashboard)."""
    job_python: str = sys.executable
    """The Python that runs a job's driver, on the cluster's head node."""
    host: str = "127.0.0.1"
    port: int = Field(default=8642, ge=0, le=65535)
    """Address of the API. Port 0 picks a free one."""
    ray_address: str | None = Field(
        default=None, validation_alias=AliasChoices("WINNOW_RAY_ADDRESS", "RAY_ADDRESS")
    )
    """Ray cluster to run on; without one, winnow starts a local one."""
    pass_environment: str = ""
    """Names of further variables that workers get and judges may take their key from, with commas
    between. (Proxies, certificates, the hub's settings and `*_API_KEY` need not be named.)"""
    data_roots: str = ""
    """Folders, with commas between, in which data, templates, benchmark tasks and judges' questions
    may lie. Default: anywhere while the API is on a loopback address, which serves one user of this
    machine; on any other address nowhere, so that only data sets of the hub can be used."""
    model_roots: str = ""
    """The same for models' folders."""
    store_roots: str = ""
    """Folders and addresses (`/mnt/checkpoints,s3://bucket/prefix`) below which sweeps may keep
    their checkpoints (`checkpoints.store`). Default: as for `data_roots`."""
    private_judges: bool | None = None
    """Whether judges may be at loopback and private addresses. Default: while the API is on a
    loopback address."""

    webhook_allow: str = ""
    """Networks, addresses and host names that webhooks may be sent to though they are not on the
    public internet, with commas between: `10.0.0.0/8,ci.example`. Also by plain http."""
    webhook_proxy: str | None = None
    """A proxy for webhooks, `http://host:port`. It then has to keep them off private addresses: it
    resolves the names. Without this no proxy is used, whatever the environment says."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """`auto`: text at a terminal, else a JSON object a line."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """A port on which the API gives its Prometheus metrics without a token, at `/metrics`. Without
    one they are at `/v1/prometheus` only, for tokens with the scope `read`."""
    metrics_host: str = "127.0.0.1"
    """The address of that port."""
    otel_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
    )
    """Where traces are sent (OTLP over HTTP). Without it none are made."""

    allowed_hosts: str = ""
    """Names by which the API may be addressed (the Host header), with commas between, e.g.
    `winnow.example.com`. Those of loopback always work. Needed on any other address."""
    trusted_proxies: str = ""
    """Addresses or networks, with commas between, of proxies whose X-Forwarded-For and
    X-Forwarded-Proto are believed. Default: nobody's are."""
    session_hours: float = Field(default=168.0, gt=0.0, le=8760.0)
    """How long a browser stays signed in."""
    header_seconds: float = Field(default=10.0, gt=0.0, le=3600.0)
    """How long the head of a request may take to arrive."""
    body_seconds: float = Field(default=30.0, gt=0.0, le=3600.0)
    """How long a request's body may take to arrive."""
    reads_per_minute: int = Field(default=6000, ge=0)
    writes_per_minute: int = Field(default=1200, ge=0)
    heavy_per_minute: int = Field(default=300, ge=0)
    """How much one token may ask of one API process; `heavy`: submit, validate, replay, export. As
    much at once as in a minute. 0: no limit."""
    event_days: float = Field(default=90.0, gt=0.0)
    """Days after a sweep's end from which its events are deleted, but for the last ones."""
    events_kept: int = Field(default=1000, ge=1)
    """How many of these are kept."""
    failures_per_minute: int = Field(default=30, ge=0)
    """Wrong tokens from one address before it is told to slow down. 0: no limit."""

    _environment: Environment = PrivateAttr(default_factory=Environment)

    @property
    def environment(self) -> Environment:
        """What of this process's environment is passed on."""
        return self._environment

    @property
    def ray_is_here(self) -> bool:
        """Whether trials run on this machine."""
        host = (self.ray_address or "127.0.0.1").rsplit("://", 1)[-1].rsplit(":", 1)[0]
        return host in ("127.0.0.1", "localhost", "local", "[::1]")

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches the API."""
        return self.host in ("127.0.0.1", "localhost", "::1")

    @property
    def roots(self) -> Roots:
        """Where trials may open files, and reach judges."""
        private = self.is_private if self.private_judges is None else self.private_judges
        return Roots(
            data=self._listed(self.data_roots),
            models=self._listed(self.model_roots),
            private_judges=private,
        )

    @property
    def stores(self) -> tuple[str, ...] | None:
        """What addresses of stores begin with; None: anything."""
        return self._listed(self.store_roots)

    @property
    def hosts(self) -> frozenset[str]:
        """Names by which the API may be addressed. Raises ValueError if nobody has given any."""
        given = {name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip()}
        if not given and not self.is_private:
            raise ValueError(
                f"WINNOW_HOST is {self.host}, which others can reach, so winnow has to know by "
                "which names: set WINNOW_ALLOWED_HOSTS, e.g. winnow.example.com (without port; "
                "several with commas between)"
            )
        return frozenset(given | {"localhost", "127.0.0.1", "::1"})

    @property
    def proxies(self) -> tuple[str, ...]:
        """Whose X-Forwarded headers are believed."""
        return tuple(name.strip() for name in self.trusted_proxies.split(",") if name.strip())

    def _listed(self, given: str) -> tuple[str, ...] | None:
        names = tuple(name.strip() for name in given.split(",") if name.strip())
        return names or (None if self.is_private else ())

    @property
    def webhook_policy(self) -> Policy:
        """Where webhooks may be sent."""
        return Policy.parse(self.webhook_allow)

    def secrets(self) -> set[str]:
        """Values that must not be written down."""
        password = urlsplit(self.database_url).password
        return self.environment.secrets() | ({password} if password else set())

    @model_validator(mode="after")
    def _jobs_have_an_address(self) -> Settings:
        if self.launcher == "job" and not self.ray_jobs_address:
            raise ValueError(
                "WINNOW_RAY_JOBS_ADDRESS: launcher job needs the address of the cluster's "
                "dashboard, e.g. http://head:8265"
            )
        address = self.ray_jobs_address
        if address is not None and not address.startswith(("http://", "https://")):
            raise ValueError(
                f"WINNOW_RAY_JOBS_ADDRESS: {address!r} is not a web address; give the dashboard's, "
                "e.g. http://head:8265"
            )
        return self

    @model_validator(mode="after")
    def _names_are_names(self) -> Settings:
        for name in self.allowed_hosts.split(","):
            if name.strip() and not _NAME.fullmatch(name.strip()):
                raise ValueError(
                    f"WINNOW_ALLOWED_HOSTS: {name.strip()!r} is not a name or an address; give "
                    "names like winnow.example.com, without scheme, port or *"
                )
        for proxy in self.proxies:
            try:
                ip_network(proxy)
            except ValueError as error:
                raise ValueError(
                    f"WINNOW_TRUSTED_PROXIES: {error}; give addresses or networks, e.g. 10.0.0.0/24"
                ) from None
        return self

    @model_validator(mode="after")
    def _roots_are_absolute(self) -> Settings:
        for name in ("data_roots", "model_roots", "store_roots"):
            for root in self._listed(getattr(self, name)) or ():
                if not root.startswith("/") and not (name == "store_roots" and "://" in root):
                    raise ValueError(
                        f"WINNOW_{name.upper()}: {root!r} is not an absolute path; give folders "
                        "like /data/sft, with commas between"
                    )
        return self

    @field_validator("webhook_allow")
    @classmethod
    def _can_be_parsed(cls, text: str) -> str:
        Policy.parse(text)
        return text

    @model_validator(mode="after")
    def _derive(self) -> Settings:
        self.home = self.home.expanduser().resolve()
        if not self.database_url:
            self.database_url = f"sqlite:///{self.home / 'winnow.db'}"
        also = [name.strip() for name in self.pass_environment.split(",") if name.strip()]
        self._environment = Environment.of(os.environ, also)
        return self
