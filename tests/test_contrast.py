"""Contrastive learning: values worked out by hand on known vectors."""

import math

import numpy as np
import pytest
import torch

from model.contrast import alignment, anisotropy, info_nce, uniformity

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
NORTH_EAST = [1.0, 1.0]


def log_sum(*cosines: float, temperature: float) -> float:
    return math.log(sum(math.exp(cosine / temperature) for cosine in cosines))


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
def test_info_nce_of_known_vectors(temperature: float) -> None:
    anchors, positives = torch.tensor([EAST, NORTH]), torch.tensor([[3.0, 0.0], NORTH_EAST])
    half = math.sqrt(0.5)
    first = log_sum(1, half, temperature=temperature) - 1 / temperature
    second = log_sum(0, half, temperature=temperature) - half / temperature
    assert info_nce(anchors, positives, temperature).item() == pytest.approx((first + second) / 2, rel=1e-5, abs=1e-6)


def test_hard_negatives_of_the_whole_batch_count_for_each_anchor() -> None:
    anchors, positives, negatives = (torch.tensor(x) for x in ([EAST, NORTH], [EAST, NORTH], [WEST, NORTH_EAST]))
    half = math.sqrt(0.5)
    first = log_sum(1, 0, -1, half, temperature=0.5) - 2
    second = log_sum(0, 1, 0, half, temperature=0.5) - 2
    assert info_nce(anchors, positives, 0.5, negatives).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_info_nce_against_a_reference_in_numpy() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=(n, 16)) for n in (8, 8, 5))
    u, v, w = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b, c))
    logits = u @ np.concatenate([v, w]).T / 0.05
    expected = np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    tensors = [torch.from_numpy(x).float() for x in (a, b, c)]
    assert info_nce(tensors[0], tensors[1], 0.05, tensors[2]).item() == pytest.approx(expected, rel=1e-4)


def test_info_nce_computes_in_float32_what_a_model_gives_in_bfloat16() -> None:
    a, b = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert info_nce(a, b, 0.05).dtype == torch.float32
    assert torch.equal(info_nce(a, b, 0.05), info_nce(a.float(), b.float(), 0.05))


def test_alignment_is_the_mean_squared_distance() -> None:
    a = torch.tensor([EAST, EAST, EAST])
    assert alignment(a, torch.tensor([EAST, NORTH, WEST])) == pytest.approx((0 + 2 + 4) / 3)
    assert alignment(a, 5 * a) == 0


def test_uniformity_of_known_vectors() -> None:
    assert uniformity(torch.tensor([EAST, [2.0, 0.0]])) == pytest.approx(0)
    assert uniformity(torch.tensor([EAST, WEST])) == pytest.approx(-8)
    expected = math.log((2 * math.exp(-4) + math.exp(-8)) / 3)
    assert uniformity(torch.tensor([EAST, NORTH, WEST])) == pytest.approx(expected)


def test_anisotropy_is_the_mean_cosine_of_different_rows() -> None:
    assert anisotropy(torch.tensor([EAST, NORTH])) == pytest.approx(0)
    assert anisotropy(torch.tensor([EAST, [2.0, 0.0], EAST])) == pytest.approx(1)
    assert anisotropy(torch.tensor([EAST, NORTH, WEST])) == pytest.approx(-1 / 3)
