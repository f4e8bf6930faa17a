"""`python -m api`: serve the API and the dashboard."""

from __future__ import annotations

import sys

import uvicorn

from api.app import create_app
from orchestrator.redaction import hide, log_to_stderr
from orchestrator.settings import Settings


def main() -> int:
    settings = Settings()
    hide(settings.secrets())
    log_to_stderr()
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            log_config=None,  # the handler of log_to_stderr is the only one
            log_level="info",
            access_log=False,
            server_header=False,
            # Live streams never end by themselves; clients take them up again elsewhere.
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=16 * 1024,
        )
    )
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
