"""Causal attention with dropout on its probabilities for CUDA: one Triton kernel forward, one backward.

The (T, T) probabilities never reach the GPU's memory; their dropout mask does, as one bit an element. Rate and seed are
device tensors, so that a changing rate recompiles nothing and a CUDA graph replays with a new mask each time. No kernel
uses atomics: the same seed gives the same bits.

The softmax is computed block by block (Milakov & Gimelshein 2018; Dao et al. 2022, "FlashAttention"). The backward pass
computes the probabilities again from the logarithm of the softmax's denominators.

Shapes: B batch, T tokens, nh heads, hs channels a head; G bytes hold one row of a mask, 8 keys each.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(1.4426950408889634)
MASK_BLOCK = 1024
"""Bytes that one program of the mask's kernel draws."""


@triton.jit
def _draw_mask(mask, seed, threshold, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Writes `n` bytes; each bit is 0 with probability threshold / 2**16. A byte takes one call of Philox."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    t = tl.load(threshold).to(tl.uint32)
    a, b, c, d = tl.randint4x(tl.load(seed), i)
    a, b = a.to(tl.uint32, bitcast=True), b.to(tl.uint32, bitcast=True)
    c, d = c.to(tl.uint32, bitcast=True), d.to(tl.uint32, bitcast=True)
    kept = ((a & 0xFFFF) >= t).to(tl.int32) | (((a >> 16) >= t).to(tl.int32) << 1)
    kept |= (((b & 0xFFFF) >= t).to(tl.int32) << 2) | (((b >> 16) >= t).to(tl.int32) << 3)
    kept |= (((c & 0xFFFF) >= t).to(tl.int32) << 4) | (((c >> 16) >= t).to(tl.int32) << 5)
    kept |= (((d & 0xFFFF) >= t).to(tl.int32) << 6) | (((d >> 16) >= t).to(tl.int32) << 7)
    tl.store(mask + i, kept.to(tl.uint8), mask=i < n)


@triton.jit
def _kept(mask, q, k, exists, G):  # type: ignore[no-untyped-def]
    """Returns which probabilities of queries `q` and keys `k`, two index tiles that broadcast, are kept."""
    byte = tl.load(mask + q * G + k // 8, mask=exists, other=0).to(tl.int32)
    return ((byte >> (k % 8)) & 1) != 0


@triton.jit
def _rows(start, i, stride, d, T, HS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Loads the rows `i` of a (T, hs) matrix whose rows lie `stride` apart; 0 outside it."""
    return tl.load(start + i[:, None] * stride + d[None, :], mask=(i[:, None] < T) & (d[None, :] < HS), other=0.0)


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    qkv, mask, scale, out, log_sums, T, nh, G, softmax_scale,
    HS: tl.constexpr, HS2: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Computes one block of BQ queries of one head, over the blocks of BK keys up to the diagonal."""
    block, bh = tl.program_id(0), tl.program_id(1)
    b, h = bh // nh, bh % nh
    C = nh * HS
    start = qkv + b.to(tl.int64) * T * 3 * C + h * HS
    mask += bh.to(tl.int64) * T * G
    q, d = block * BQ + tl.arange(0, BQ), tl.arange(0, HS2)
    Q = _rows(start, q, 3 * C, d, T, HS)
    acc = tl.zeros([BQ, HS2], tl.float32)
    top = tl.full([BQ], float("-inf"), tl.float32)  # the largest score so far
    total = tl.zeros([BQ], tl.float32)  # the sum of exp2(score - top)
    for first in range(0, tl.minimum((block + 1) * BQ, T), BK):
        k = first + tl.arange(0, BK)
        K, V = _rows(start + C, k, 3 * C, d, T, HS), _rows(start + 2 * C, k, 3 * C, d, T, HS)
        past = q[:, None] >= k[None, :]
        S = tl.dot(Q, tl.trans(K), input_precision=PRECISION) * (softmax_scale * LOG2_E)
        S = tl.where(past, S, float("-inf"))
        new_top = tl.maximum(top, tl.max(S, 1))
        P = tl.exp2(S - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(P, 1)
        kept = _kept(mask, q[:, None], k[None, :], past & (q[:, None] < T), G)
        dropped = tl.where(kept, P, 0.0).to(V.dtype)
        acc = acc * shrink[:, None] + tl.dot(dropped, V, input_precision=PRECISION)
        top = new_top
    acc = acc / total[:, None] * tl.load(scale)
    to = out + b.to(tl.int64) * T * C + h * HS + q[:, None] * C + d[None, :]
    tl.store(to, acc.to(out.dtype.element_ty), mask=(q[:, None] < T) & (d[None, :] < HS))
    tl.store(log_sums + bh.to(tl.int64) * T + q, top + tl.log2(total), mask=q < T)


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    qkv, mask, scale, out, d_out, log_sums, d_qkv, T, nh, G, softmax_scale,
    HS: tl.constexpr, HS2: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Computes the gradients of BLOCK keys and values, over the queries from them on, and then of as many queries.

    The first is much work for the first block and the second for the last: together all programs have the same.
    """
    block, bh = tl.program_id(0), tl.program_id(1)
    b, h = bh // nh, bh % nh
    C = nh * HS
    start, d_start = qkv + b.to(tl.int64) * T * 3 * C + h * HS, d_qkv + b.to(tl.int64) * T * 3 * C + h * HS
    out_start, d_out_start = out + b.to(tl.int64) * T * C + h * HS, d_out + b.to(tl.int64) * T * C + h * HS
    mask += bh.to(tl.int64) * T * G
    log_sums += bh.to(tl.int64) * T
    s = tl.load(scale)
    d = tl.arange(0, HS2)

    own = block * BLOCK + tl.arange(0, BLOCK)
    inside = (own[:, None] < T) & (d[None, :] < HS)
    K, V = _rows(start + C, own, 3 * C, d, T, HS), _rows(start + 2 * C, own, 3 * C, d, T, HS)
    dK, dV = tl.zeros([BLOCK, HS2], tl.float32), tl.zeros([BLOCK, HS2], tl.float32)
    for first in range(block * BLOCK // STEP * STEP, T, STEP):
        q = first + tl.arange(0, STEP)
        Q, dO = _rows(start, q, 3 * C, d, T, HS), _rows(d_out_start, q, C, d, T, HS)
        delta = tl.sum(_rows(out_start, q, C, d, T, HS).to(tl.float32) * dO.to(tl.float32), 1)
        L = tl.load(log_sums + q, mask=q < T, other=0.0)
        past = (q[None, :] >= own[:, None]) & (q[None, :] < T)  # (BLOCK, STEP), as are all below
        S = tl.dot(K, tl.trans(Q), input_precision=PRECISION) * (softmax_scale * LOG2_E)
        P = tl.where(past, tl.exp2(S - L[None, :]), 0.0)
        kept = _kept(mask, q[None, :], own[:, None], past, G)
        dV += tl.dot(tl.where(kept, P * s, 0.0).to(dO.dtype), dO, input_precision=PRECISION)
        dP = tl.where(kept, tl.dot(V, tl.trans(dO), input_precision=PRECISION) * s, 0.0)
        dK += tl.dot((P * (dP - delta[None, :])).to(Q.dtype), Q, input_precision=PRECISION)
    to = d_start + own[:, None] * (3 * C) + d[None, :]
    tl.store(to + C, (dK * softmax_scale).to(d_qkv.dtype.element_ty), mask=inside)
    tl.store(to + 2 * C, dV.to(d_qkv.dtype.element_ty), mask=inside)

    own_Q, own_dO = _rows(start, own, 3 * C, d, T, HS), _rows(d_out_start, own, C, d, T, HS)
    own_delta = tl.sum(_rows(out_start, own, C, d, T, HS).to(tl.float32) * own_dO.to(tl.float32), 1)
    own_L = tl.load(log_sums + own, mask=own < T, other=0.0)
    dQ = tl.zeros([BLOCK, HS2], tl.float32)
    for first in range(0, tl.minimum((block + 1) * BLOCK, T), STEP):
        k = first + tl.arange(0, STEP)
        k_K, k_V = _rows(start + C, k, 3 * C, d, T, HS), _rows(start + 2 * C, k, 3 * C, d, T, HS)
        k_past = (own[:, None] >= k[None, :]) & (own[:, None] < T)
        k_S = tl.dot(own_Q, tl.trans(k_K), input_precision=PRECISION) * (softmax_scale * LOG2_E)
        k_P = tl.where(k_past, tl.exp2(k_S - own_L[:, None]), 0.0)
        k_kept = _kept(mask, own[:, None], k[None, :], k_past, G)
        k_dP = tl.where(k_kept, tl.dot(own_dO, tl.trans(k_V), input_precision=PRECISION) * s, 0.0)
        dQ += tl.dot((k_P * (k_dP - own_delta[:, None])).to(k_K.dtype), k_K, input_precision=PRECISION)
    tl.store(to, (dQ * softmax_scale).to(d_qkv.dtype.element_ty), mask=inside)


@torch.library.custom_op("dynamic_dropout::attend", mutates_args=())
def _attend(qkv: Tensor, seed: Tensor, threshold: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    B, T, _, nh, hs = qkv.shape
    qkv = qkv.contiguous()
    out, log_sums, mask = _empty_results(qkv, seed, threshold, scale)
    _draw_mask[(triton.cdiv(mask.numel(), MASK_BLOCK),)](mask, seed, threshold, mask.numel(), BLOCK=MASK_BLOCK)
    settings = _settings(qkv)
    block = settings.pop("BLOCK"), settings.pop("STEP")
    _forward_kernel[(triton.cdiv(T, block[0]), B * nh)](
        qkv, mask, scale, out, log_sums, T, nh, mask.shape[2], hs**-0.5, BQ=block[0], BK=block[1], **settings
    )
    return out, log_sums, mask


@_attend.register_fake
def _empty_results(qkv: Tensor, seed: Tensor, threshold: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    B, T, _, nh, hs = qkv.shape
    return (
        qkv.new_empty(B, T, nh, hs),
        qkv.new_empty(B * nh, T, dtype=torch.float32),
        qkv.new_empty(B * nh, T, -(-T // 8), dtype=torch.uint8),
    )


@torch.library.custom_op("dynamic_dropout::attend_backward", mutates_args=())
def _attend_backward(qkv: Tensor, mask: Tensor, scale: Tensor, out: Tensor, d_out: Tensor, log_sums: Tensor) -> Tensor:
    B, T, _, nh, hs = qkv.shape
    qkv, out, d_out = qkv.contiguous(), out.contiguous(), d_out.contiguous()
    d_qkv = torch.empty_like(qkv)
    settings = _settings(qkv)
    _backward_kernel[(triton.cdiv(T, settings["BLOCK"]), B * nh)](
        qkv, mask, scale, out, d_out, log_sums, d_qkv, T, nh, mask.shape[2], hs**-0.5, **settings
    )
    return d_qkv


@_attend_backward.register_fake
def _empty_gradient(qkv: Tensor, mask: Tensor, scale: Tensor, out: Tensor, d_out: Tensor, log_sums: Tensor) -> Tensor:
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], inputs[3], *output)


def _backward(ctx: Any, d_out: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    qkv, scale, out, log_sums, mask = ctx.saved_tensors
    return _attend_backward(qkv, mask, scale, out, d_out, log_sums), None, None, None


_attend.register_autograd(_backward, setup_context=_save)


def _settings(qkv: Tensor) -> dict[str, Any]:
    """Returns how the kernels are to be compiled for these queries, keys and values."""
    hs = qkv.shape[-1]
    padded = max(16, triton.next_power_of_2(hs))
    block = 64 if padded * qkv.element_size() <= 128 else 32  # larger ones spill registers
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    return {"HS": hs, "HS2": padded, "BLOCK": block, "STEP": block, "PRECISION": precision, "num_warps": 4}


def attend(qkv: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
    """Returns causal attention, (B, T, nh, hs), with dropout on its probabilities; torch's generator gives the seed.

    Args:
        qkv: (B, T, 3, nh, hs), bfloat16 or float32, hs from 16 to 128.
        threshold: 0-d int32; a probability is dropped if its 16 random bits are below it.
        scale: 0-d float32; what the others are multiplied with.
    """
    seed = torch.randint(2**62, (1,), dtype=torch.int64, device=qkv.device)
    out: Tensor = _attend(qkv, seed, threshold, scale)[0]
    return out
