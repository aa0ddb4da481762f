"""Memory of a process that computes: kept between steps, given back before the next training."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

KEPT = """
import json, os, torch
from detr_mini.cpu_runtime import keep_freed_memory

def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

supported = keep_freed_memory()
before = megabytes()
blocks = [torch.ones(4 << 20) for _ in range(20)]
del blocks
kept = megabytes()
keep_freed_memory()
print(json.dumps([supported, before, kept, megabytes()]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems keep freed memory as they like")
def test_freed_memory_is_kept_until_the_next_training_begins() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", KEPT], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    supported, before, kept, after = json.loads(printed)
    if not supported:
        pytest.skip("this C library has no mallopt or no malloc_trim")
    assert kept - before > 300, "20 blocks of 16 MB stay with the process for the next step"
    assert after - before < 100, "a training that begins gives them back, before it starts processes that load images"
