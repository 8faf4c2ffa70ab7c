"""What a run was measured on: figures without their machine say little."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("numpy", "scipy", "numba", "implicit", "polars")


def describe_environment() -> dict[str, str]:
    """Return name -> value: processor, CPUs that may be used, memory, system, Python, packages.

    Examples
    --------
    >>> sorted(describe_environment())[:2]
    ['BLAS threads', 'CPUs']
    """
    described = {
        "processor": _processor(),
        "CPUs": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "BLAS threads": "1 in each process",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }
    return described | {package: _version(package) for package in _PACKAGES}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
