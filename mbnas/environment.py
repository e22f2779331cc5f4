"""Versions, hardware, and how many threads and processes share the work."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mbnas import parallel

PACKAGES = (
    *("mbnas", "torch", "torchvision", "optuna", "ray", "numpy", "pandas", "pymoo"),
    *("numba", "pillow", "scikit-learn"),  # by which sums are rounded, images scaled, digits known
)


def environment() -> dict[str, Any]:
    """What decides figures beside settings and seed; it belongs beside all that are measured."""
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
        "threads": torch.get_num_threads(),
        "processes": parallel.count(),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Where two environments differ, in words; of what both tell."""
    there, here = ({**each["versions"], **each["hardware"], **each} for each in (before, now))
    return [
        f"{name} {there[name]}, now {here[name]}"
        for name in there
        if name in here and there[name] != here[name] and name not in ("versions", "hardware")
    ]


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
