"""What every test can use: databases (see `fixtures/databases.py`)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
