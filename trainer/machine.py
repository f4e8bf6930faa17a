"""What the machine under a run has: memory of its GPUs and its host, room on disk. No torch."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path


def smallest_gpu() -> int | None:
    """Bytes of memory of this machine's smallest GPU, as NVIDIA's driver says; None without one."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        sizes = [int(line) for line in done.stdout.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return min(sizes) * 1024**2 if sizes else None


def host_memory() -> int | None:
    """Bytes of this machine's memory, or of what its container may use; None if unknown."""
    sizes: list[int] = []
    for file, pattern in _HOST_FILES:
        try:
            found = re.search(pattern, Path(file).read_text(encoding="ascii", errors="replace"))
        except OSError:
            continue
        if found:
            sizes.append(int(found[1]) * (1024 if "meminfo" in file else 1))
    return min(sizes, default=None)


_HOST_FILES = (
    ("/proc/meminfo", r"MemTotal:\s+(\d+) kB"),
    ("/sys/fs/cgroup/memory.max", r"^(\d+)"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", r"^(\d+)"),
)


def free_at(folder: str) -> int | None:
    """Bytes free where `folder` is or will be; None if even its parent isn't there."""
    path = Path(folder).expanduser()
    for there in (path, path.parent):
        if there.is_dir():
            return shutil.disk_usage(there).free
    return None
