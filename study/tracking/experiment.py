"""Which runs a study's experiment in MLflow has."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run, ViewType
from mlflow.exceptions import MlflowException

from study.base.errors import UserError
from study.base.names import CHILDREN, NUMBER, OUTCOME, PARENT_RUN, STATUS, Key, Outcome, Role
from study.tracking.client import check, connect, has_experiment
from study.tracking.reader import search_runs


@dataclass(frozen=True, kw_only=True)
class FoundRuns:
    """The runs of an experiment by their keys; `deleted` are the keys of runs that someone has deleted."""

    runs: dict[Key, list[Run]]
    deleted: set[Key]


def find_runs(client: MlflowClient, experiment_id: str, parent: Role) -> FoundRuns:
    """Returns the parent run with this role, and the runs that are nested under it."""
    parents = search_runs(client, experiment_id, parent)
    runs: dict[Key, list[Run]] = {PARENT_RUN: parents} if parents else {}
    deleted: set[Key] = set()
    for child in CHILDREN[parent]:
        for run in search_runs(client, experiment_id, child, ViewType.ALL):
            tag = run.data.tags[NUMBER[child]]
            key: Key = int(tag) if child is Role.TRIAL else tag
            if run.info.lifecycle_stage == LifecycleStage.ACTIVE:
                runs.setdefault(key, []).append(run)
            else:
                deleted.add(key)
    return FoundRuns(runs=runs, deleted=deleted - runs.keys())


def has_all(uri: str, name: str, parent: Role, outcomes: Mapping[Key, Outcome]) -> bool | None:
    """Whether MLflow has a study that was not stopped, and the ends of all its runs.

    A run's end is sent after all else of the run. None is for a store that does not answer.
    """
    try:
        check(uri, create=True)
        if not has_experiment(uri, name):
            return False
        client = connect(uri)
        experiment = client.get_experiment_by_name(name)
        found = find_runs(client, experiment.experiment_id, parent) if experiment else None
    except (UserError, MlflowException):
        return None
    if found is None or PARENT_RUN not in found.runs:
        return False
    if found.runs[PARENT_RUN][0].info.status not in (STATUS[Outcome.COMPLETED], STATUS[Outcome.FAILED]):
        return False
    return all(
        any(run.data.tags.get(OUTCOME) == outcome and run.info.status == STATUS[outcome] for run in runs)
        for key, outcome in outcomes.items()
        if key not in found.deleted
        for runs in [found.runs.get(key, [])]
    )
