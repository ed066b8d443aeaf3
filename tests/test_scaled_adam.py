"""ScaledAdam against figures that were worked out by hand."""

import pytest
import torch

from model.scaled_adam import ScaledAdam


def stepped(values: list[float], gradients: list[list[float]], **settings: float) -> list[list[float]]:
    """Returns the parameter after each of some gradients."""
    p = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    optimizer = ScaledAdam([p], lr=0.1, betas=(0.9, 0.99), eps=1e-14, **settings)  # type: ignore[arg-type]
    found = []
    for gradient in gradients:
        p.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        found.append(p.tolist())
    return found


def test_two_steps_are_those_worked_out_by_hand() -> None:
    """theta = (3, 4): r = sqrt(25 / 2) = 3.53553391.

    Step 1, g = (1, -2). Adam's first step is the sign of g: lr r = 0.35355339, down and up. The gradient of r is
    h1 = (3 - 8) / r = -1.41421356, whose sign is -1: r grows, and theta by a tenth of lr, (0.03, 0.04).
    theta = (3 - 0.35355339 + 0.03, 4 + 0.35355339 + 0.04) = (2.67644661, 4.39355339).

    Step 2, g = (1, 1): r = 3.63776565, c = sqrt(1 - 0.99^2) / (1 - 0.9^2) = 0.74245979.
    m = 0.9 (0.1, -0.2) + 0.1 (1, 1) = (0.19, -0.08), v = 0.99 (0.01, 0.04) + 0.01 (1, 1) = (0.0199, 0.0496)
    m / sqrt(v) = (1.34687429, -0.35921060); times 0.1 r c: (0.36377657, -0.09701900)
    h2 = (2.67644661 + 4.39355339) / r = 1.94350068
    n = 0.9 * 0.1 h1 + 0.1 h2 = 0.06707085, w = 0.99 * 0.01 h1^2 + 0.01 h2^2 = 0.05757195
    0.1 * 0.1 c n / sqrt(w) = 0.00207539; times theta: (0.00555469, 0.00911836)
    theta = (2.67644661 - 0.36377657 - 0.00555469, 4.39355339 + 0.09701900 - 0.00911836)
    """
    first, second = stepped([3.0, 4.0], [[1.0, -2.0], [1.0, 1.0]])
    assert first == pytest.approx([2.67644661, 4.39355339], abs=1e-8)
    assert second == pytest.approx([2.30711535, 4.48145403], abs=2e-8)


def test_a_step_is_relative_to_the_tensor_and_free_of_the_scale_of_the_gradient() -> None:
    gradients = [[1.0, -2.0], [1.0, 1.0], [-0.5, 0.3]]
    plain = stepped([3.0, 4.0], gradients)
    larger = stepped([300.0, 400.0], [[1000 * g for g in gradient] for gradient in gradients])
    assert [[x / 100 for x in values] for values in larger] == [pytest.approx(values) for values in plain]


def test_a_tensor_of_zeros_leaves_zero_by_its_smallest_root_mean_square() -> None:
    assert stepped([0.0, 0.0], [[5.0, -1.0]]) == [pytest.approx([-1e-6, 1e-6])]
    assert stepped([0.0, 0.0], [[5.0, -1.0]], smallest_rms=0.5) == [pytest.approx([-0.05, 0.05])]


def test_without_a_share_for_the_scale_its_direction_is_adams() -> None:
    gradients = [[1.0, -2.0], [0.5, 1.0]]
    p = torch.tensor([0.6, 0.8], dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([p], lr=0.1 * 0.5**0.5, betas=(0.9, 0.99), eps=1e-30)  # the root mean square is sqrt(0.5)
    p.grad = torch.tensor(gradients[0], dtype=torch.float64)
    adam.step()
    assert stepped([0.6, 0.8], gradients[:1], scale_share=0.0) == [pytest.approx(p.tolist())]


def test_its_state_goes_on_where_it_was() -> None:
    gradients = [torch.tensor([g, -2 * g, 0.5]) for g in (1.0, -0.3, 0.7, 0.1)]

    def run(parameter: torch.Tensor, optimizer: ScaledAdam, some: list[torch.Tensor]) -> None:
        for gradient in some:
            parameter.grad = gradient.clone()
            optimizer.step()

    whole = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    run(whole, ScaledAdam([whole], lr=0.1), gradients)
    begun = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    first = ScaledAdam([begun], lr=0.1)
    run(begun, first, gradients[:2])
    resumed = begun.detach().clone().requires_grad_()
    second = ScaledAdam([resumed], lr=0.5)
    second.load_state_dict(first.state_dict())
    run(resumed, second, gradients[2:])
    assert torch.equal(resumed, whole)
