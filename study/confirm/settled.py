"""Which MLflow store a confirmation is in, and whether that has all of it."""

import os

from study.base.errors import UserError
from study.base.names import Key, Outcome, Role
from study.base.uris import HIDDEN, recalled
from study.confirm.options import ConfirmOptions
from study.confirm.plan import ConfirmationConfig, ConfirmationFolder
from study.confirm.results import read_results
from study.tracking.client import tracking_uri
from study.tracking.experiment import has_all


def store_uri(config: ConfirmationConfig, folder: ConfirmationFolder, options: ConfirmOptions) -> str:
    """Returns the URI of the MLflow store. Raises UserError if it held a password and must be given again."""
    hidden = config.tracking_uri == HIDDEN
    if hidden and not (options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")):
        raise UserError("the tracking URI of the study held a password, which is not kept: set MLFLOW_TRACKING_URI")
    return tracking_uri(options.tracking_uri or recalled(config.tracking_uri, folder.path.parent))


def is_settled(config: ConfirmationConfig, folder: ConfirmationFolder, options: ConfirmOptions) -> bool:
    """Whether MLflow has all runs of a confirmation that has its verdict, or does not answer."""
    results = read_results(folder.path)
    outcomes: dict[Key, Outcome] = {
        f"{run['arm']}/seed-{run['seed']}": Outcome(run["outcome"]) for run in results.sweep + results.runs
    }
    uri = store_uri(config, folder, options)
    return has_all(uri, config.study, Role.CONFIRMATION, outcomes) is not False
