"""What every test can use: databases (see `fixtures/databases.py`).

Generated examples are the same in every run, so that a change is blamed only for what it broke.
`pytest --hypothesis-profile=random` tries others; what it finds becomes a test of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile("same")

# Parallel workers of pytest set it to 80; how wide a page is, is for each test to say.
os.environ.pop("COLUMNS", None)

# Tests are imported one by one (--import-mode=importlib); this lets them share `tests.fixtures`.
ROOT = str(Path(__file__).parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

pytest_plugins = [
    "tests.fixtures.databases",
    "tests.fixtures.hub_proxy",
    "tests.fixtures.process_group",
    "tests.fixtures.ray_cluster",
]
