"""Seeded noise is the same whichever rows are read, and has its moments."""

import numpy as np
from bench.noise import NOISE_ROWS, GaussianRows


def collect(stream, size):
    return np.concatenate([block.double().numpy() for block in stream.blocks(size)])


def test_noise_depends_on_seed_and_row_alone():
    stream = GaussianRows(2 * NOISE_ROWS + 100, 3, seed=5)
    whole = collect(stream, NOISE_ROWS)
    np.testing.assert_array_equal(collect(stream, 1000), whole)
    np.testing.assert_array_equal(collect(GaussianRows(len(whole), 3, seed=5), 7777), whole)
    np.testing.assert_array_equal(collect(GaussianRows(500, 3, seed=5), 77), whole[:500])
    np.testing.assert_array_equal(stream.read(4000, 8200).numpy(), whole[4000:8200])
    assert not np.array_equal(collect(GaussianRows(500, 3, seed=6), 500), whole[:500])
    assert not np.array_equal(whole[:100], whole[NOISE_ROWS : NOISE_ROWS + 100])


def test_noise_has_its_moments_and_a_shifted_copy_is_one():
    stream, copy = GaussianRows(40_000, 4, seed=1), GaussianRows(40_000, 4, seed=1, mean=0.25)
    noise = collect(stream, 4096)
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=4 / 200)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(4), atol=4 * 2**0.5 / 200)
    assert abs((noise**4).mean() - 3.0) < 4 * 96**0.5 / 400
    np.testing.assert_allclose(collect(copy, 4096) - noise, 0.25, atol=1e-6)
    wide = collect(GaussianRows(40_000, 4, seed=1, sd=2.0), 4096)
    np.testing.assert_allclose(wide, 2.0 * noise, rtol=1e-5, atol=1e-6)
