"""The alpha-divergence of a student's predictions from its teacher's, for distillation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CLIP = 5.0
"""What AlphaNet clips importance weights at."""


def alpha_divergence(student: Tensor, teacher: Tensor, alpha: float, clip: float = CLIP) -> Tensor:
    """Returns the alpha-divergence of the student's distribution q from the teacher's p, for each token.

        D_alpha(p || q) = sum_i q_i ((p_i / q_i)^alpha - 1) / (alpha (alpha - 1))

    Its limits are KL(p || q) at alpha 1 and KL(q || p) at alpha 0. D is 0 where p = q, and so is its gradient. A
    negative alpha punishes a student that is sure where the teacher is not, one above 1 the opposite.

        gradient: -1/alpha sum_i q_i ((p_i / q_i)^alpha - 1) grad log q_i    (the -1 adds 0: it is exact at p = q)

    The importance weights (p_i / q_i)^alpha are cut at `clip`, in the value and in the gradient, for any alpha but 0
    and 1, whose gradients are bounded by themselves or nearly so (AlphaNet, Wang et al. 2021, arXiv 2102.07954,
    section 3 and its published settings). Cutting them in the formula of the gradient keeps the gradient of a
    token that is cut; to differentiate a cut value would lose it.

    Args:
        student: logits (..., V). The gradient flows through these only.
        teacher: logits (..., V).

    Returns:
        (...), float32.
    """
    log_q, log_p = F.log_softmax(student.float(), dim=-1), F.log_softmax(teacher.detach().float(), dim=-1)
    log_u = log_p - log_q.detach()
    q = log_q.detach().exp()
    if alpha == 1:
        value, slope = (log_p.exp() * log_u).sum(-1), log_p.exp() - q
    elif alpha == 0:
        value, slope = -(q * log_u).sum(-1), q * log_u
    else:
        excess = torch.expm1((alpha * log_u).clamp(max=math.log(clip)))  # clipped weights, less 1
        value, slope = (q * excess).sum(-1) / (alpha * (alpha - 1)), q * excess / alpha
    carrier = -(slope * log_q).sum(-1)
    return value + (carrier - carrier.detach())  # the value, with the gradient of the carrier


def adaptive_divergence(student: Tensor, teacher: Tensor, low: float, high: float, clip: float = CLIP) -> Tensor:
    """Returns the larger of the divergences at two alphas for each token, averaged over the tokens.

    It punishes both, to be too sure and to be not sure enough. AlphaNet takes -1 and 1.
    """
    first = alpha_divergence(student, teacher, low, clip)
    if low == high:
        return first.mean()
    second = alpha_divergence(student, teacher, high, clip)
    return torch.where(first > second, first, second).mean()
