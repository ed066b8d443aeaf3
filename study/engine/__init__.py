"""Runs on Ray: the cluster, its slots, the trials, early stopping, and the display."""

import os
from pathlib import Path

from study.base.files import cache_folder

# Ray reads these when it is imported: no output but ours, no files but ours, Ctrl-C is ours, a failed trial's last
# result may lack the metric, as many workers may start at once as there is room for, and patience with a trial that is
# still saving when the next one wants its worker (after the default of two seconds the study would hang).
RAY_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _name, _value in RAY_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

try:
    Path.home()
except RuntimeError:  # a container's user without HOME and without an entry in passwd: Ray could not be imported
    os.environ["HOME"] = str(cache_folder())
