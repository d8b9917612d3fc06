"""The versions and the machine of a run, read without importing the packages."""

import os
import platform
import resource
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers", "pydantic")


def describe(preset: str) -> dict[str, Any]:  # Any: JSON, for run.json
    """Return the contents of run.json: preset, versions, git commit, machine."""
    return {
        "preset": preset,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tercet": _version("tercet"),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "machine": {
            "system": platform.platform(),
            "processor": _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
            "num_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "gpus": [_field(file, "Model") for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))],
        },
    }


def spare_memory() -> int:
    """Estimate how many bytes this process may still allocate, given the machine, the container and its own limit."""
    page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    limits = [page * pages]
    statm = Path("/proc/self/statm")
    total, resident = map(int, statm.read_text(encoding="ascii").split()[:2]) if statm.exists() else (0, 0)
    container = Path("/sys/fs/cgroup/memory.max")
    if container.exists() and (most := container.read_text(encoding="ascii").strip()).isdigit():
        limits.append(int(most))
    spare = [limit - page * resident for limit in limits]
    most_addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most_addresses != resource.RLIM_INFINITY:
        spare.append(most_addresses - page * total)
    return max(0, min(spare))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _git_commit() -> str:
    """Return the commit of this source, with + if files were changed; empty if it is not a checkout."""
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return ""  # installed, maybe inside the repository of another project
    commit = _git(here.parent, "rev-parse", "HEAD") or ""
    return commit + ("+" if _git(here.parent, "status", "--porcelain", "--untracked-files=no", "..") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _field(file: Path, name: str) -> str:
    """Return the value of the first line `name : value` of a /proc file."""
    if not file.exists():
        return ""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
