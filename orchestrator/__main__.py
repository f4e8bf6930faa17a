"""`python -m orchestrator [run | drive SWEEP | migrate]`: the orchestrator's processes."""

from __future__ import annotations

import argparse
import logging
import sys

from orchestrator.redaction import hide, log_to_stderr
from orchestrator.settings import Settings


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestrator", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("run", help="claim queued sweeps and keep their drivers alive (default)")
    drive = commands.add_parser("drive", help="run one sweep; started by `run`")
    drive.add_argument("sweep")
    drive.add_argument("--slots", type=int, default=1, help="trials at once")
    commands.add_parser("migrate", help="bring the database's schema up to date")
    options = parser.parse_args()
    settings = Settings()
    hide(settings.secrets())
    log_to_stderr()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if options.command == "migrate":
        from orchestrator.store import migrate

        migrate(settings.database_url)
        return 0
    if options.command == "drive":
        from orchestrator.raytune.driver import drive as run_driver

        return run_driver(options.sweep, options.slots, settings)
    from orchestrator.reconcile import Orchestrator

    return Orchestrator(settings).run()


if __name__ == "__main__":
    sys.exit(main())
