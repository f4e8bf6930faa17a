"""`python -m orchestrator [run | drive SWEEP | migrate]`: the orchestrator's processes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from orchestrator.observe import traces
from orchestrator.observe.context import whole_process
from orchestrator.observe.logs import log_to_stderr
from orchestrator.redaction import hide
from orchestrator.settings import Settings
from orchestrator.supervision.handover import handed_over
from orchestrator.supervision.launch import Launcher, ProcessLauncher


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestrator", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("run", help="claim queued sweeps and keep their drivers alive (default)")
    drive = commands.add_parser("drive", help="run one sweep; started by `run`")
    drive.add_argument("sweep")
    drive.add_argument("--slots", type=int, default=1, help="trials at once")
    drive.add_argument("--job", help="the Ray Job that this driver is")
    drive.add_argument("--settings", type=Path, help="a file of settings, from the orchestrator")
    commands.add_parser("migrate", help="bring the database's schema up to date")
    options = parser.parse_args()
    if options.command == "drive" and options.settings is not None:
        os.environ.update(handed_over(options.settings))
    settings = Settings()
    hide(settings.secrets())
    log_to_stderr(settings.log_format)
    if options.command == "migrate":
        from orchestrator.store import migrate

        migrate(settings.database_url)
        return 0
    if options.command == "drive":
        from orchestrator.raytune.driver import drive as run_driver

        whole_process(sweep=options.sweep)
        traces.set_up("driver", settings.otel_endpoint)
        traces.of_sweep(options.sweep)
        code = run_driver(options.sweep, options.slots, settings, options.job)
        # At once: a Ray client whose cluster is gone takes a minute to say goodbye.
        traces.tear_down()
        logging.shutdown()
        os._exit(code)
    from orchestrator.supervision.reconcile import Orchestrator

    traces.set_up("orchestrator", settings.otel_endpoint)
    code = Orchestrator(settings, _launcher(settings)).run()
    traces.tear_down()
    return code


def _launcher(settings: Settings) -> Launcher:
    if settings.launcher == "job":
        from orchestrator.raytune.jobs import JobLauncher

        return JobLauncher(settings)
    return ProcessLauncher(settings.home)


if __name__ == "__main__":
    sys.exit(main())
