"""kill -9 in mid-stream: what was acknowledged is there, once; the next driver goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.store import Store
from tests.integration.store.reports import steps

ROOT = Path(__file__).parents[3]

# A driver that says which step is durable, after each commit, until it is killed.
WRITER = """
import sys
from orchestrator.store import Store
from tests.integration.store.reports import steps

url, sweep_id = sys.argv[1:]
store = Store(url)
lease = store.acquire_lease(sweep_id, "writer", 60)
trial_id = store.add_trial(lease, 0, "search", {}, {}, 1_000_000)
attempt = store.start_attempt(lease, trial_id)
last = 0
while True:
    store.record(lease, trial_id, attempt, steps(last + 1, last + 7))
    last += 7
    print(last, flush=True)
"""


def test_kill_9_loses_no_acknowledged_record(store: Store, migrated_url: str):
    sweep = store.create_sweep({}, 1, "s")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, migrated_url, sweep.id],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    acknowledged = 0
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged >= 50 * 7:
            writer.send_signal(signal.SIGKILL)
            break
    for line in writer.stdout:  # what it had still said when it died
        acknowledged = int(line)
    assert writer.wait(timeout=120) == -signal.SIGKILL
    writer.stdout.close()

    (curve,) = store.curves(sweep.id, max_points=10**6)
    stored = curve.step[-1]
    assert curve.step == list(range(1, stored + 1)), "each step once, without a gap"
    assert acknowledged <= stored <= acknowledged + 7, "at most the commit in flight is beyond"
    assert store.get_trial(curve.trial_id).step == stored, "progress is that of the same commit"

    assert store.expire_lease(sweep.id, epoch=1)
    lease = store.acquire_lease(sweep.id, "next", 60)
    assert lease is not None
    assert store.start_attempt(lease, curve.trial_id) == 2
    store.record(lease, curve.trial_id, 2, steps(1, 3))
    assert store.curves(sweep.id)[0].step == [1, 2, 3]
