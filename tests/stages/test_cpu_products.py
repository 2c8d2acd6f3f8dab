"""Products of 0/1 matrices by bytes against exact ones."""

import numpy as np
import pytest
import torch

from stages.cpu_products import bool_product


def exact(matrix_NN: torch.Tensor, vector_N: torch.Tensor) -> np.ndarray:
    return np.asarray(matrix_NN.double().numpy() @ vector_N.double().numpy())


@pytest.mark.parametrize("n", [1, 3, 37, 500, 2101])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_bytes_are_as_good_as_floats(n: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(n)
    matrix_NN = torch.rand(n, n, generator=generator) < 0.4
    vector_N = scale * torch.randn(n, generator=generator)
    error_N = bool_product(matrix_NN, vector_N).double().numpy() - exact(matrix_NN, vector_N)
    # Every entry may be off by half a step of the largest; the sum is rounded to float32.
    largest = float(vector_N.abs().max())
    assert np.abs(error_N).max() <= n * largest * 2.0**-23
    assert np.abs(error_N).mean() <= 0.2 * np.sqrt(n) * largest * 2.0**-22


def test_digits_of_all_signs_and_sizes_are_put_together() -> None:
    """Whole numbers are exact, at the ends of each byte too."""
    ends = [0, 1, 127, 128, 129, 255, 256, 32767, 32768, 32896, 65535, 65536, 127 * 65536 - 1]
    values = torch.tensor([sign * end for end in ends for sign in (1, -1)] + [127 * 65536], dtype=torch.float32)
    torch.testing.assert_close(bool_product(torch.eye(len(values)).bool(), values), values, rtol=0, atol=0)


def test_zeros_give_zeros() -> None:
    assert (bool_product(torch.ones(5, 5, dtype=torch.bool), torch.zeros(5)) == 0).all()
    assert (bool_product(torch.zeros(5, 5, dtype=torch.bool), torch.ones(5)) == 0).all()
