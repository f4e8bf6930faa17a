"""One sweep while it runs. `Study` is what a driver talks to; it knows neither Ray nor SQL.

`study.py` chooses and judges; `ledger.py` holds the trials; `wishes.py` carries out what users ask
for; `failures.py`, `pausing.py`, `spending.py`, `reuse.py` and `disk.py` each answer one question.
"""

from orchestrator.live_trial import Control
from orchestrator.study.ledger import Attempt
from orchestrator.study.study import Study

__all__ = ["Attempt", "Control", "Study"]
