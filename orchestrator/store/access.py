"""Who may come in: tokens, the sessions that stand for them, and the log of what was asked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from orchestrator.store import audit, sessions, tokens
from orchestrator.store.database import Database, WriteSession
from orchestrator.store.idempotency import Once
from orchestrator.store.records import Audited, Refusal, Token
from winnow import tokens as told


class Access:
    """`Store.access`. Texts of tokens and sessions are returned once, and stored as hashes only.

    Where a method takes `project`, tokens of other projects are not there for it (NotFound).
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    # --- tokens -------------------------------------------------------------------------------

    def create_token(
        self,
        name: str,
        scopes: Sequence[str] = ("admin",),
        *,
        project: str | None = None,
        created_by: str | None = None,
        seconds: float | None = None,
        once: Once | None = None,
    ) -> told.TokenSecret:
        """A new token with its text; it expires `seconds` from now (None: never)."""
        text = tokens.new_text()

        def make(session: WriteSession) -> told.TokenSecret:
            made = tokens.add(session, name, text, scopes, project, created_by, seconds)
            return _told(tokens.get(session, made), text)

        return self._db.transact(make, once)

    def check_token(self, text: str) -> Token | Refusal:
        """The token that `text` is, or why it doesn't hold."""
        with self._db.read() as session:
            return tokens.verify(session, text)

    def token(self, token_id: int, project: str | None = None) -> told.Token:
        with self._db.read() as session:
            return tokens.get(session, token_id, project)

    def tokens(
        self, limit: int = 100, before: int | None = None, *, project: str | None = None
    ) -> list[told.Token]:
        """Newest first, those with an id below `before`."""
        with self._db.read() as session:
            return tokens.page(session, limit, before, project)

    def revoke_token(self, token_id: int, *, project: str | None = None) -> told.Token:
        """End a token and its sessions. Conflict for the last one that can administer all."""
        return self._db.transact(lambda s: tokens.revoke(s, token_id, project))

    def rotate_token(
        self,
        token_id: int,
        *,
        grace: float = 0.0,
        seconds: float | None = None,
        project: str | None = None,
        once: Once | None = None,
    ) -> told.TokenSecret:
        """A token with a new text; the old one works for `grace` seconds more.

        `seconds`: it now expires so long from now. Conflict if it has expired or was revoked.
        """
        text = tokens.new_text()

        def rotate(session: WriteSession) -> told.TokenSecret:
            return _told(tokens.rotate(session, token_id, text, grace, seconds, project), text)

        return self._db.transact(rotate, once)

    # --- sessions -----------------------------------------------------------------------------

    def open_session(self, token_id: int, seconds: float) -> tuple[str, datetime]:
        """A session's text, and when it ends."""
        text = sessions.new_text()
        return text, self._db.transact(lambda s: sessions.open_for(s, token_id, text, seconds))

    def check_session(self, text: str) -> Token | Refusal:
        """The token that a session stands for, or why it stands for none."""
        with self._db.read() as session:
            return sessions.verify(session, text)

    def session_ends(self, session_id: int) -> datetime:
        """When a session ends. Raises NotFound once it has."""
        with self._db.read() as session:
            return sessions.ends(session, session_id)

    def end_session(self, session_id: int) -> None:
        self._db.transact(lambda s: sessions.end(s, session_id))

    # --- what was done ------------------------------------------------------------------------

    def note(
        self,
        entries: Sequence[Audited] = (),
        token_ids: Collection[int] = (),
        session_ids: Collection[int] = (),
    ) -> None:
        """Write down requests, and that tokens and sessions were used, in one transaction."""

        def write(session: WriteSession) -> None:
            audit.add(session, entries)
            tokens.used(session, sorted(token_ids))
            sessions.used(session, sorted(session_ids))

        self._db.transact(write)

    def audit(
        self,
        limit: int = 100,
        before: int | None = None,
        *,
        actor: str | None = None,
        action: str | None = None,
        project: str | None = None,
        since: datetime | None = None,
    ) -> list[told.AuditEntry]:
        """What was asked for, newest first; see `orchestrator.store.audit.page`."""
        with self._db.read() as session:
            return audit.page(
                session, limit, before, actor=actor, action=action, project=project, since=since
            )


def _told(token: told.Token, text: str) -> told.TokenSecret:
    return told.TokenSecret(**token.model_dump(), token=text)
