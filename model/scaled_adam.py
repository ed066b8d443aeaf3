"""ScaledAdam: Adam whose steps are relative to the size of each parameter tensor."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class ScaledAdam(Optimizer):
    """ScaledAdam of Zipformer (Yao et al. 2024, arXiv 2310.11230, "Optimizer" and its appendix).

    A parameter tensor theta is r theta', r its root mean square. Adam's step is multiplied by r, so that all tensors
    change by about the same share; beside it, r itself is learned, at a share `scale_share` of the learning rate:

        g = gradient, h = sum(g theta'), the gradient with respect to r
        m, v = averages of g and g^2 (beta1, beta2); n, w = averages of h and h^2
        c = sqrt(1 - beta2^t) / (1 - beta1^t)
        theta <- theta - lr r c m / (sqrt(v) + eps) - scale_share lr r c n / (sqrt(w) + eps) theta'

    r counts as at least `smallest_rms`, so that a tensor of zeros can leave 0. There is no weight decay.

    How it differs from the authors' own program (icefall): m is corrected for its start at 0 as v is; r is updated at
    each step, not every few steps; gradients are not clipped by a running median (the trainer clips their norm); r has
    no upper bound.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        scale_share: float = 0.1,
        smallest_rms: float = 1e-5,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "scale_share": scale_share, "smallest_rms": smallest_rms}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Makes one update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state |= {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
            state |= {"scale_m": p.new_zeros(()), "scale_v": p.new_zeros(())}
        state["step"] += 1
        rms = p.square().mean().sqrt().clamp(min=group["smallest_rms"])
        scale_gradient = (gradient * p).sum() / rms
        state["m"].lerp_(gradient, 1 - beta1)
        state["v"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        state["scale_m"].lerp_(scale_gradient, 1 - beta1)
        state["scale_v"].mul_(beta2).addcmul_(scale_gradient, scale_gradient, value=1 - beta2)
        correction = (1 - beta2 ** state["step"]) ** 0.5 / (1 - beta1 ** state["step"])
        change = state["m"] / (state["v"].sqrt() + group["eps"]) * rms
        scale_change = state["scale_m"] / (state["scale_v"].sqrt() + group["eps"])  # times rms theta', which is p
        change.add_(p * scale_change, alpha=group["scale_share"])
        p.sub_(change, alpha=group["lr"] * correction)
