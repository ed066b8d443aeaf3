"""What holds on a GPU: compilations over many rates, new masks at each replay, bit-identical repeats and resumes."""

import io
import time
from functools import partial

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from model.dropout import set_dropout_rate
from model.schedules import Linear
from study.bench.gpu.report import Report
from study.bench.gpu.setting import Setting
from study.training.trainer import Trainer

STEPS = 50
RATES = 200


def facts(setting: Setting, report: Report) -> None:
    """Reports all of them."""
    with report.stage("graphs"):
        torch._dynamo.reset()
        counters.clear()
        trainer = setting.trainer(Linear(0.2, 0.0), steps=RATES, cuda_graphs=False)
        setting.train(trainer, RATES)
        report.add("graphs_over_200_rates", int(counters["stats"]["unique_graphs"]), "the evaluation's is one of them")
    with report.stage("masks"):
        trainer = setting.trainer(0.2, learning_rate=1e-30, min_learning_rate=0.0, weight_decay=0.0)
        set_dropout_rate(trainer.model, 0.2)
        starts = torch.zeros(1, setting.training.batch_size, dtype=torch.int64)
        losses = [
            trainer.graphed.train_steps(starts) if trainer.graphed else float(trainer.update(starts[0]))
            for _ in range(4)
        ]
        report.add("losses_of_one_batch", str([round(loss, 6) for loss in losses]), "differ: each step has its masks")
    for graphs in (True, False):
        name = "graphed" if graphs else "ungraphed"
        with report.stage(f"repeat_{name}"):
            found = [_weights(_trained(setting, deterministic=True, cuda_graphs=graphs)) for _ in range(2)]
            report.add(f"repeats_{name}_deterministic", bool(torch.equal(*found)), f"{STEPS} steps at rate 0.2")
            if graphs:
                kept = found[0]
            else:
                report.add("graphs_change", float((found[0] - kept).abs().max()), "largest difference of a weight")
    with report.stage("repeat_free"):
        found = [_weights(_trained(setting)) for _ in range(2)]
        report.add("repeats_without", bool(torch.equal(*found)), f"{float((found[0] - found[1]).abs().max()):.1e}")
    with report.stage("resume"):
        a = _trained(setting, deterministic=True)
        report.add("step_ms_0.2_deterministic", setting.milliseconds(partial(setting.train, a), setting.steps, 1))
        state = io.BytesIO()
        started = time.perf_counter()
        torch.save(a.state_dict(), state)
        report.add("checkpoint_ms", 1e3 * (time.perf_counter() - started))
        setting.train(a, STEPS)
        b = setting.trainer(0.2, deterministic=True)
        b.load_state_dict(torch.load(io.BytesIO(state.getvalue()), map_location="cpu", weights_only=True))
        setting.train(b, STEPS)
        report.add("resume_repeats", bool(torch.equal(_weights(a), _weights(b))), "deterministic")
        report.add("evaluation_ms", setting.milliseconds(lambda n: [a.validate() for _ in range(n)], 3))
    torch.use_deterministic_algorithms(False)


def _trained(setting: Setting, **changes: object) -> Trainer:
    trainer = setting.trainer(0.2, **changes)
    setting.train(trainer, STEPS)
    return trainer


def _weights(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
