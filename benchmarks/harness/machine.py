"""Where the benchmarks run, and on what versions."""

import os
import platform
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import samemap


def cpu_model() -> str:
    """Name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()


def machine() -> dict[str, Any]:
    """Where this runs, and on what versions."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "joblib": joblib.__version__,
        "samemap": samemap.__version__,
    }


def machine_text(found: dict[str, Any]) -> str:
    return (
        f"{found['python']}, NumPy {found['numpy']}, joblib {found['joblib']}, "
        f"samemap {found['samemap']}; {found['cpu']}, {found['cores']} cores, "
        f"{found['kernel']}"
    )
