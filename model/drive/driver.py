"""Drives the dropout rates of a model of any library with a schedule."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from model.checks import check_integer, short
from model.drive.choice import check_family, chosen, names
from model.drive.compiled import Replacement
from model.drive.levels import QUANTIZED, Levels
from model.drive.schedule_reader import Source, read_schedule
from model.drive.sites import Site, ValueSite, find_sites, set_sites
from model.regularizer import Regularizer
from model.schedules import Constant


class Driver:
    """Writes a schedule's rates into a model while it trains.

    Sites are all places from which the model reads a dropout rate: dropout modules, attributes of other modules, and
    configs that are read when the model runs. All driven sites get the schedule's rate, times their block's weight.
    As a context manager it restores the user's rates at its end.

    Attributes:
        regularizer: what gives the rates; evaluations change its state.
        rate: the schedule's rate in the last step, None before the first.
    """

    def __init__(
        self,
        model: nn.Module,
        regularizer: Source,
        steps: int,
        only: str | None = None,
        skip: str | None = None,
        compiled: bool = False,
    ) -> None:
        """Finds the sites; their rates change at the first `before_step`.

        Args:
            model: a module of any library, or a GPT of this project.
            regularizer: `read_schedule(FILE_OR_DICT)`, or what that reads.
            steps: the number of updates of the whole training.
            only: a regular expression; the sites whose names it matches are driven, those at rate 0 too. Without it,
                the sites above 0 are.
            skip: a regular expression; the sites whose names it matches keep their rates.
            compiled: for a model that `torch.compile` compiles: sites read their rates from tensors, so that a rate
                that changes compiles once. Modules and attention are replaced at once, so that the order of Driver and
                `torch.compile` does not matter. A warning names the sites that cannot be; they take five rates at most.

        Raises:
            ValueError: if there is no site to drive, with the list of all sites, or if an argument is refused.
        """
        self.model = model
        self.steps = check_integer("steps", steps, minimum=1)
        self.regularizer = read_schedule(regularizer)
        self.rate: float | None = None
        check_family(model, self.regularizer.family)
        self._user_sites = chosen(model, find_sites(model), only, skip)
        self._user_rates = [site.rate for site in self._user_sites]
        self._compiled = compiled
        self._replacement: Replacement | None = None
        self._levels = Levels(self.regularizer.schedule)
        if compiled:
            self._replace()
        elif any(type(module).__name__ == "OptimizedModule" for module in model.modules()):
            warnings.warn(
                "torch.compile compiles this model anew at each rate, and not at all from the eighth on: give "
                "Driver(..., compiled=True)",
                stacklevel=2,
            )

    @property
    def sites(self) -> dict[str, float]:
        """The rates that the model reads now, by the names of the driven sites."""
        return {site.name: site.rate for site in self._sites}

    @property
    def _sites(self) -> list[Site]:
        done = self._replacement
        return self._user_sites if done is None else [*done.sites, *done.left]

    def before_step(self, step: int) -> float:
        """Writes the rates of the update `step`, which counts from 0; returns the schedule's rate.

        From the last step on, the rates are those of the end of the training.
        """
        if step < 0:
            raise ValueError(f"step must be at least 0, got {short(step)}")
        if self._compiled and self._replacement is None:
            self._replace()
        progress = min(step / self.steps, 1.0)
        self.rate = self.regularizer.rate(progress)
        if self._replacement is None:
            _write(self._user_sites, self.regularizer, progress)
        else:
            _write(self._replacement.sites, self.regularizer, progress)
            constant = Constant(self._levels.nearest(self.rate))
            _write(self._replacement.left, replace(self.regularizer, schedule=constant), progress)
        return self.rate

    def observe(self, val_loss: float | Tensor) -> None:
        """Tells the schedule the result of an evaluation, lower is better; the next `before_step` follows it."""
        self.regularizer.observe(float(val_loss))

    def restore(self) -> None:
        """Puts back the user's rates, modules and attention. A later `before_step` drives them again."""
        if self._replacement is not None:
            self._replacement.restore()
            self._replacement = None
        set_sites(self._user_sites, self._user_rates)

    def restore_configs(self) -> None:
        """Puts back the user's rates in configs, so that they are saved; the next `before_step` drives them again.

        Call it after the backward pass, which may run the model again. A model seldom reads its config when it runs.
        """
        pairs = list(zip(self._user_sites, self._user_rates, strict=True))
        configs = [(site, rate) for site, rate in pairs if isinstance(site, ValueSite) and site.in_config]
        set_sites([site for site, _ in configs], [rate for _, rate in configs])

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint needs to hold: the schedule's state, plain numbers."""
        return self.regularizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        self.regularizer.load_state_dict(state)

    def __enter__(self) -> "Driver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def _replace(self) -> None:
        self._replacement = Replacement(self.model, self._user_sites)
        if not (left := self._replacement.left):
            return
        depth = self.regularizer.depth
        if any(depth.weight(site.layer, site.n_layer, 0) != depth.weight(site.layer, site.n_layer, 1) for site in left):
            self.restore()
            raise ValueError(
                f"depth {depth.kind} switches blocks over time, which compiled=True cannot do for {names(left)}: "
                "give skip= to leave these alone, or another depth"
            )
        warnings.warn(
            f"compiled=True cannot replace these sites, which take {QUANTIZED} rates at most: {names(left)}",
            stacklevel=3,
        )


def _write(sites: Sequence[Site], regularizer: Regularizer, progress: float) -> None:
    """Writes the rates of a progress."""
    rates = {n_layer: regularizer.rates(progress, n_layer) for n_layer in {site.n_layer for site in sites}}
    set_sites(sites, [rates[site.n_layer][site.layer] for site in sites])
