"""What a training step costs on a GPU, beside the same GPT written plainly and the card's own limits."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from study.bench.contestants import plain_step, products
from study.bench.gpu.report import Report
from study.bench.gpu.setting import Setting


def limits(setting: Setting, report: Report) -> float:
    """Reports the card's rates in large products and copies; returns the operations a second."""
    if not setting.is_cuda:
        return 1e12
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn_like(a)
    ms = setting.milliseconds(lambda n: [torch.matmul(a, b) for _ in range(n)], 20)
    report.add("matrix_tflops", 2 * 8192**3 / ms / 1e9)
    x = torch.empty(2**30, device="cuda", dtype=torch.int32)
    y = torch.empty_like(x)
    ms_copy = setting.milliseconds(lambda n: [y.copy_(x) for _ in range(n)], 10)
    report.add("copy_tb_per_second", 2 * x.numel() * 4 / ms_copy / 1e9)
    return 2 * 8192**3 / ms * 1e3


def steps(setting: Setting, report: Report, rate_of_card: float) -> None:
    """Times our step at rate 0.2 and 0, in its variants, and the plain GPT's."""
    _, operations = products(setting.shape, setting.device, torch.bfloat16 if setting.is_cuda else torch.float32)
    for rate in (0.2, 0.0):
        with report.stage(f"step_{rate}"):
            started = time.perf_counter()
            trainer = setting.trainer(rate)
            setting.train(trainer, 5)
            report.add(f"first_steps_seconds_{rate}", time.perf_counter() - started, "compilation and capture in it")
            ms = setting.milliseconds(partial(setting.train, trainer), setting.steps)
            share = operations / (ms / 1e3) / rate_of_card
            tokens = setting.training.batch_size * setting.training.block_size / ms / 1e3
            report.add(f"step_ms_{rate}", ms, f"{tokens:.2f} M tokens/s, {100 * share:.0f} % of the card's products")
            if setting.is_cuda:
                report.add(f"step_peak_gb_{rate}", torch.cuda.max_memory_reserved() / 1e9)
    with report.stage("ungraphed"):
        trainer = setting.trainer(0.2, cuda_graphs=False)
        report.add("step_ms_0.2_without_graphs", setting.milliseconds(partial(setting.train, trainer), setting.steps))
    with report.stage("plain"):
        step = plain_step(setting.shape, 0.2, setting.device, setting.is_cuda, setting.training.compile)
        ms = setting.milliseconds(lambda n: [step() for _ in range(n)], setting.steps)
        report.add("plain_step_ms_0.2", ms, "nn.Dropout, SDPA's dropout_p, compiled; one batch")
    if setting.is_cuda:
        with report.stage("profile"):
            _profile(setting)


def _profile(setting: Setting) -> None:
    trainer = setting.trainer(0.2, cuda_graphs=False)
    setting.train(trainer, 5)
    with torch.profiler.profile() as profile:
        setting.train(trainer, 5)
    table = profile.key_averages().table(sort_by="cuda_time_total", row_limit=40, max_name_column_width=90)
    (setting.output / "profile.txt").write_text(table)


def attention(setting: Setting, report: Report) -> None:
    """Compares the fused attention with float64, and times it beside SDPA."""
    if not setting.is_cuda:
        return
    from model import fused_attention  # a torch without CUDA has no Triton

    shape = setting.shape
    B, T, nh = shape.batch_size, shape.model.block_size, shape.model.n_head
    hs = shape.model.n_embd // nh
    threshold = torch.tensor(13107, dtype=torch.int32, device="cuda")
    scale = torch.tensor(65536 / (65536 - 13107), device="cuda")
    seed = torch.tensor([5], device="cuda")
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        with report.stage(f"attention_{name}"):
            qkv = torch.randn(4, T, 3, nh, hs, device="cuda", dtype=dtype, requires_grad=True)
            out, _, mask = fused_attention._attend(qkv, seed, threshold, scale)
            gradient = torch.randn_like(out)
            out.backward(gradient)
            kept = ((mask[..., None].int() >> torch.arange(8, device="cuda")) & 1).reshape(4, nh, T, -1)[..., :T]
            exact = qkv.detach().double().requires_grad_()
            expected = _reference(exact, kept.double() * scale.double())
            expected.backward(gradient.double())
            assert qkv.grad is not None
            assert exact.grad is not None
            report.add(f"attention_output_error_{name}", _error(out, expected))
            report.add(f"attention_gradient_error_{name}", _error(qkv.grad, exact.grad))
            report.add(f"attention_dropped_share_{name}", 1 - kept.double().mean().item(), "0.2 is asked for")
    with report.stage("attention_times"):
        qkv = torch.randn(B, T, 3, nh, hs, device="cuda", dtype=torch.bfloat16)
        out, log_sums, mask = fused_attention._attend(qkv, seed, threshold, scale)
        d_out = torch.randn_like(out)
        forward = lambda n: [fused_attention._attend(qkv, seed, threshold, scale) for _ in range(n)]  # noqa: E731
        backward = lambda n: [  # noqa: E731
            fused_attention._attend_backward(qkv, mask, scale, out, d_out, log_sums) for _ in range(n)
        ]
        report.add("attention_forward_ms", _graphed_ms(setting, forward))
        report.add("attention_backward_ms", _graphed_ms(setting, backward))


def _graphed_ms(setting: Setting, run: Callable[[int], object], n: int = 20) -> float:
    """Returns the time of one call on the device alone: `run(n)` is replayed as a graph."""
    run(n)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(n)

    def replay(rounds: int) -> None:
        for _ in range(rounds):
            graph.replay()

    return setting.milliseconds(replay, 10) / n


def _reference(qkv: Tensor, mask: Tensor) -> Tensor:
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    T = q.shape[2]
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~torch.ones(T, T, device=q.device).tril().bool(), -torch.inf)
    out: Tensor = scores.softmax(-1) * mask @ v
    return out.transpose(1, 2)


def _error(found: Tensor, expected: Tensor) -> float:
    return float(((found.detach().double() - expected.detach()).norm() / expected.detach().norm()).item())
