"""`python -m api`: serve the API and the dashboard."""

from __future__ import annotations

import logging
import socket
import sys
from typing import Any

import uvicorn

from api.app import create_app
from api.connections import protocol
from api.guard import MAX_HEAD
from orchestrator.observe import traces
from orchestrator.observe.logs import log_to_stderr
from orchestrator.redaction import hide
from orchestrator.settings import Settings

log = logging.getLogger(__name__)


def main() -> int:
    settings = Settings()
    hide(settings.secrets())
    log_to_stderr(settings.log_format)
    traces.set_up("api", settings.otel_endpoint)
    try:
        app = create_app(settings)
    except ValueError as error:
        print(f"winnow: {error}", file=sys.stderr)
        return 2
    if not settings.is_private and not settings.proxies:
        log.warning(
            "THE API IS OPEN TO OTHERS WITHOUT TLS: tokens and data cross the network in clear on "
            "%s:%d. Put a proxy that speaks https in front of it, bind to an address that only the "
            "proxy reaches, and name it in WINNOW_TRUSTED_PROXIES (docs/guide-access.md).",
            settings.host,
            settings.port,
        )
    server = _Server(
        uvicorn.Config(
            app,
            http=protocol(settings.header_seconds),
            ws="none",
            proxy_headers=False,  # the application does it, for the proxies that it is told of
            host=settings.host,
            port=settings.port,
            log_config=None,  # the handler of log_to_stderr is the only one
            log_level="info",
            access_log=False,
            server_header=False,
            # Live streams never end by themselves; clients take them up again elsewhere.
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=MAX_HEAD,
        )
    )
    server.run()
    traces.tear_down()
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """Ends live streams before it waits for requests to end."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app: Any = self.config.app
        app.state.services.hub.close()
        await super().shutdown(sockets)


if __name__ == "__main__":
    sys.exit(main())
