"""What a run ran on, so that it can be judged and repeated."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax


def environment(command: str) -> dict[str, Any]:
    """Versions, machine, date, the command typed, and the commit if this is a checkout."""
    versions = {name: importlib.metadata.version(name) for name in ("foretrain", "jax", "numpy", "scipy", "equinox")}
    device = jax.devices()[0]
    return {
        **versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": device.device_kind if device.platform != "cpu" else "cpu",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": command,
        "git": _commit(),
    }


def _commit() -> str | None:
    """The commit of the checkout foretrain itself lies in, or None when it is installed elsewhere."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
