"""Callbacks that drive the models of Hugging Face's Trainer and of Lightning; each library is imported when used."""

from typing import TYPE_CHECKING

from model.drive.schedule_reader import Source

if TYPE_CHECKING:
    from model.adapters.hugging_face import DropoutCallback as HuggingFaceCallback
    from model.adapters.lightning import DropoutCallback as LightningCallback


def HuggingFaceDropout(  # noqa: N802  # for its caller it is a class
    schedule: Source,
    monitor: str = "eval_loss",
    only: str | None = None,
    skip: str | None = None,
    compiled: bool | None = None,
) -> "HuggingFaceCallback":
    """Returns a TrainerCallback that drives the model of a Hugging Face Trainer.

    A resumed training takes the schedule's state from the evaluations in the Trainer's log. Training logs get
    `dropout_rate`. Every config that the Trainer saves has the user's rates.

    Args:
        schedule: a schedule file, or a dict: see `model.drive.read_schedule`.
        monitor: the metric that a `val_loss` schedule listens to, lower is better.
        only: see `model.drive.Driver`, as for `skip`.
        compiled: see `model.drive.Driver`; None is the Trainer's own `torch_compile`.

    Raises:
        ImportError: if transformers is not installed.
        ValueError: if the schedule is refused.
    """
    from model.adapters.hugging_face import DropoutCallback

    return DropoutCallback(schedule, monitor, only, skip, compiled)


def LightningDropout(  # noqa: N802  # for its caller it is a class
    schedule: Source,
    monitor: str = "val_loss",
    only: str | None = None,
    skip: str | None = None,
    compiled: bool = False,
) -> "LightningCallback":
    """Returns a Callback that drives the module of a Lightning Trainer.

    The schedule's state is part of Lightning's checkpoints. `dropout_rate` is logged as the module logs its own values.

    Args:
        schedule: a schedule file, or a dict: see `model.drive.read_schedule`.
        monitor: the validation metric that a `val_loss` schedule listens to, lower is better.
        only: see `model.drive.Driver`, as for `skip` and `compiled`.

    Raises:
        ImportError: if Lightning is not installed.
        ValueError: if the schedule is refused.
    """
    from model.adapters.lightning import DropoutCallback

    return DropoutCallback(schedule, monitor, only, skip, compiled)
