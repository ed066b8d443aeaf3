"""Where the project is, and the environment in which tests start its commands."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    """A user's environment, in which no setting of ours or of the caller's hides a default."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "RAY_", "TRITON_", "TUNE_"))
    }
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
