"""What reruns a result: the code's commit, and the versions of what it stands on."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

VERSION = "version."
"""Begins the name of a fact that is a version."""
PACKAGES = ("torch", "ray", "optuna", "mlflow", "pyarrow", "numpy")


def commit() -> str:
    """Returns the commit of the checkout that this code runs from, with "-dirty" if it differs; else "unknown"."""
    source = Path(__file__).resolve().parent.parent
    if not (source / ".git").exists():
        return "unknown"
    try:
        command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout that it does not trust
        return "unknown"


def facts(corpus_sha256: str) -> dict[str, str]:
    """Returns what reruns a study: the text's hash, the commit, and the versions of Python and the packages."""
    versions = {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}
    return {"corpus_sha256": corpus_sha256, "commit": commit()} | {VERSION + name: v for name, v in versions.items()}


def utc_now() -> str:
    """Returns the time as in 2026-11-22T10:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
