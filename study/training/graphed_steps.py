"""Training steps as CUDA graphs: the host asks for a whole step at once, whose launches would cost it milliseconds."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.dropout import DropoutRate, rate_owners, set_rates
from model.levels import threshold_of
from study.training.learning_rate import learning_rate

if TYPE_CHECKING:
    from study.training.trainer import Trainer

WARM_UP_STEPS = 3
"""Steps before a capture, in which lazily made buffers and kernels come to be."""


class GraphedSteps:
    """Makes a trainer's updates by replaying two graphs, one with dropout and one without.

    What changes from step to step is read from tables on the device, at a counter that each step moves on: all numbers
    of the dropout rates, learning rates, and where sequences start. On a CPU the same steps run without graphs.
    """

    def __init__(self, trainer: "Trainer") -> None:
        self._trainer = trainer
        device, config = trainer.device, trainer.config
        self._owners = rate_owners(trainer.model)
        n = config.eval_interval
        self._is_cuda = device.type == "cuda"
        self._numbers = [_NumberTable(self._owners, dtype, n, device) for dtype in (torch.int32, torch.float32)]
        # On a CPU in double precision, as Python's floats are.
        precision = torch.float32 if self._is_cuda else torch.float64
        self._learning_rates = torch.zeros(n, dtype=precision, device=device)
        self._starts = torch.zeros(n, config.batch_size, dtype=torch.int64, device=device)
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)
        self._learning_rate = torch.zeros((), dtype=precision, device=device)
        self._loss_sum = torch.zeros((), device=device)
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}
        self.attach()

    def attach(self) -> None:
        """Lets the optimizer read its learning rate from the device, now and after its state was loaded."""
        for group in self._trainer.optimizer.param_groups:
            group |= {"lr": self._learning_rate, "capturable": self._is_cuda}
        self._graphs = {}  # they hold the tensors of the state that there was

    def train_steps(self, starts: Tensor, on_step: Callable[[int], None] | None = None) -> float:
        """Makes an update for each row of `starts` (n, B), n at most eval_interval; returns the sum of their losses."""
        trainer, n = self._trainer, len(starts)
        steps = range(trainer.step, trainer.step + n)
        rates = [trainer.rates(step) for step in steps]
        if self._is_cuda and not self._graphs:
            self._capture(starts[0])
        for table in self._numbers:
            table.fill(rates)
        _fill(self._learning_rates, [learning_rate(trainer.config, step) for step in steps])
        self._starts[:n].copy_(starts)
        self._counter.zero_()
        self._loss_sum.zero_()
        for step_rates in rates:
            if self._is_cuda:
                self._graphs[any(threshold_of(rate) > 0 for rate in step_rates)].replay()
            else:
                set_rates(self._owners, step_rates)
                self._step()
            trainer.step += 1
            if on_step is not None:
                on_step(trainer.step)
        set_rates(self._owners, rates[-1])
        return self._loss_sum.item()  # waits for the device

    def _step(self) -> None:
        i = self._counter
        for table in self._numbers:
            table.set(i)
        self._learning_rate.copy_(self._learning_rates.index_select(0, i)[0])
        self._loss_sum += self._trainer.update(self._starts.index_select(0, i)[0])
        i += 1

    def _capture(self, starts: Tensor) -> None:
        """Captures both graphs, and leaves weights, optimizer and generator as they were.

        The steps before a capture have a learning rate of 0, with which AdamW changes its moments but no weight.
        """
        optimizer = self._trainer.optimizer
        kept = {p: {name: value.clone() for name, value in state.items()} for p, state in optimizer.state.items()}
        generator = torch.cuda.get_rng_state(self._trainer.device)
        self._starts[0].copy_(starts)
        self._learning_rates.zero_()
        pool = torch.cuda.graph_pool_handle()
        for active in (True, False):
            rates = [0.5 if active else 0.0] * len(self._owners)
            set_rates(self._owners, rates)
            for table in self._numbers:
                table.fill([rates] * self._trainer.config.eval_interval)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_STEPS):
                    self._counter.zero_()
                    self._step()
            torch.cuda.current_stream().wait_stream(side)
            self._counter.zero_()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self._step()
            self._graphs[active] = graph
        torch.cuda.synchronize()
        for p, state in optimizer.state.items():
            for name, value in state.items():
                if p in kept:
                    value.copy_(kept[p][name])
                else:
                    value.zero_()
        torch.cuda.set_rng_state(generator, self._trainer.device)


class _NumberTable:
    """The numbers of one type that dropout reads, of all owners of a rate: those of a step in each row."""

    def __init__(self, owners: Sequence[DropoutRate], dtype: torch.dtype, n: int, device: torch.device) -> None:
        self._owners = owners
        self._names = [name for name, buffer in owners[0].named_buffers() if buffer.dtype == dtype]
        self._targets = [owner.get_buffer(name) for owner in owners for name in self._names]
        self._rows = torch.zeros(n, len(self._targets), dtype=dtype, device=device)

    def fill(self, rates: Sequence[Sequence[float]]) -> None:
        """Writes a row for each step, given the rates of the blocks in that step."""
        settings = [[owner.settings(rate) for owner, rate in zip(self._owners, step, strict=True)] for step in rates]
        rows = [[numbers[name] for numbers in step for name in self._names] for step in settings]
        self._rows[: len(rows)].copy_(torch.tensor(rows, dtype=self._rows.dtype))

    def set(self, step: Tensor) -> None:
        """Lets dropout read the numbers of the row `step` (1,), an index on the device."""
        torch._foreach_copy_(self._targets, list(self._rows.index_select(0, step)[0].unbind()))


def _fill(table: Tensor, values: list[float]) -> None:
    table[: len(values)].copy_(torch.tensor(values, dtype=table.dtype))
