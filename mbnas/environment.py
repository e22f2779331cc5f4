"""Versions and hardware."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    *("mbnas", "torch", "torchvision", "optuna", "ray", "numpy", "pandas", "pymoo"),
    *("numba", "pillow", "scikit-learn"),  # by which sums are rounded, images scaled, digits known
)


def environment() -> dict[str, Any]:
    """Versions and hardware; they belong beside every number that is measured here."""
    cuda = torch.cuda.is_available()
    return {
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(),  # sums are rounded by them
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if cuda else None,
        },
    }


def _version(package: str) -> str | None:
    """None where it is not installed; only Ray and numba may be missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
