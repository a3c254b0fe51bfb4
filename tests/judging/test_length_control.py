import numpy as np
import pytest
from scipy import optimize, special

from tether.errors import DataError
from tether.judging import length_control
from tether.judging.glmnet import fit_path_point
from tether.judging.length_control import (
    GamedRows,
    fit_length_control,
    resample_length_control,
    solve_l1,
)


def _study(seed: int, n: int = 300, theta: float = -1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, difficulties and soft verdicts of one model from the model that is fitted."""
    generator = np.random.default_rng(seed)
    delta = generator.gamma(2, 400, size=n) - 300
    difficulty = generator.normal(size=n)
    score = -1.2 * np.tanh(delta / delta.std(ddof=1)) + 0.8 * difficulty + theta
    share = np.clip(special.expit(score) + generator.normal(0, 0.15, n), 0, 1)
    votes = generator.random(n) < special.expit(score)
    return delta, difficulty, np.where(generator.random(n) < 0.5, share, votes)


def _gamed(difficulty: np.ndarray) -> GamedRows:
    generator = np.random.default_rng(99)
    scaled = np.concatenate(
        [generator.normal(-0.5, 1, len(difficulty)), generator.normal(1.3, 1, len(difficulty))]
    )
    both = np.tile(difficulty, 2)
    return GamedRows(scaled, both, special.expit(-1.2 * np.tanh(scaled) + 0.7 * both))


def _design(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    delta, difficulty, share = _study(seed)
    x = np.stack([np.tanh(delta / delta.std(ddof=1)), difficulty, np.ones_like(delta)], axis=1)
    return x, share, np.random.default_rng(seed).uniform(0.1, 1, len(share))


@pytest.mark.parametrize("strength", [0.01, 0.3594, 2.783, 1e4])
def test_the_solver_finds_the_minimum_that_scipy_finds(strength: float) -> None:
    x, y, v = _design(0)

    def objective(split: np.ndarray) -> tuple[float, np.ndarray]:
        w = split[:3] - split[3:]
        z = x @ w
        loss = strength * (v * (np.logaddexp(0, z) - y * z)).sum() + split.sum()
        slope = strength * x.T @ (v * (special.expit(z) - y))
        return loss, np.concatenate([slope + 1, 1 - slope])

    best = optimize.minimize(
        objective, np.full(6, 0.1), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 6,
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000},
    ).x  # fmt: skip
    ours = solve_l1(x[None], y, v[None], np.array([strength]), np.zeros((1, 3)))[0]
    np.testing.assert_allclose(ours, best[:3] - best[3:], atol=2e-5)
    np.testing.assert_allclose(fit_path_point(x, y, v, strength), ours, atol=5e-3)  # its stopping rule


def test_strong_regularisation_sets_terms_to_exactly_zero() -> None:
    x, y, v = _design(1)
    assert not solve_l1(x[None], y, v[None], np.array([1e-4]), np.zeros((1, 3))).any()
    assert not fit_path_point(x, y, v, 1e-4).any()


def test_a_batch_gives_what_its_problems_give_alone() -> None:
    designs = [_design(seed) for seed in range(3)]
    x, y, v = (np.stack([d[i] for d in designs]) for i in range(3))
    strengths = np.array([0.1, 1.0, 10.0])
    together = solve_l1(x, y, v, strengths, np.zeros((3, 3)))
    for i in range(3):
        alone = solve_l1(x[[i]], y[i], v[[i]], strengths[[i]], np.zeros((1, 3)))
        np.testing.assert_allclose(together[i], alone[0], atol=1e-7)


def test_folds_are_dealt_from_the_last_row_to_the_first(monkeypatch) -> None:
    seen: list[np.ndarray] = []
    solve = length_control.fit_path_point

    def spy(design, targets, weights, strength, position=0):
        seen.append(weights == 0)
        return solve(design, targets, weights, strength, position)

    monkeypatch.setattr(length_control, "fit_path_point", spy)
    delta, difficulty, share = _study(0, n=23)
    fit_length_control(delta, difficulty, share, None)
    fold_of_last = next(f for f in range(5) if seen[f * 10][22])
    assert fold_of_last == 0
    assert seen[10][21] and seen[10][16] and not seen[10][22]


def test_a_model_that_only_wins_by_length_is_at_half_when_lengths_are_equal() -> None:
    generator = np.random.default_rng(0)
    delta = generator.normal(-400, 500, size=2000)
    share = special.expit(-2 * np.tanh(delta / delta.std(ddof=1)))
    fit = fit_length_control(delta, np.zeros(2000), share, None)
    assert share.mean() > 0.6
    assert fit.lc_win_rate == pytest.approx(50, abs=0.5)


def test_gamed_rows_hold_the_length_term() -> None:
    delta, difficulty, share = _study(3, n=60)
    generator = np.random.default_rng(0)
    scaled = generator.normal(size=4000)
    strong = GamedRows(scaled, np.zeros(4000), special.expit(-2.5 * np.tanh(scaled)))
    assert fit_length_control(delta, difficulty, share, strong).phi < -2
    assert fit_length_control(delta, difficulty, share, None).phi > -1.9


def test_resampling_every_prompt_once_gives_the_estimate_back() -> None:
    delta, difficulty, share = _study(0)
    gamed = _gamed(difficulty)
    fit = fit_length_control(delta, difficulty, share, gamed)
    once = resample_length_control(fit, delta, difficulty, share, gamed, np.ones((2, len(delta))))
    np.testing.assert_allclose(once, fit.lc_win_rate, atol=0.02)  # the path stops short of the minimum
    doubled = np.zeros((1, len(delta)))
    doubled[0, ::2] = 2
    half = slice(None, None, 2)
    by_hand = solve_l1(
        np.concatenate(
            [
                np.stack([np.tanh(gamed.scaled_delta), gamed.difficulty, np.zeros(600)], axis=1),
                np.stack(
                    [
                        np.tanh(delta[half] / np.std(np.repeat(delta[half], 2), ddof=1)),
                        difficulty[half],
                        np.ones(150),
                    ],
                    axis=1,
                ),
            ]
        )[None],
        np.concatenate([gamed.share, share[half]]),
        np.concatenate([np.full(600, 0.1), np.full(150, 2.0)])[None],
        np.array([fit.strength]),
        np.zeros((1, 3)),
    )[0]
    expected = 100 * special.expit(by_hand[1] * difficulty[half] + by_hand[2]).mean()
    drawn = resample_length_control(fit, delta, difficulty, share, gamed, doubled)[0]
    assert drawn == pytest.approx(expected, abs=1e-6)


def test_missing_verdicts_are_predicted_and_not_fitted() -> None:
    delta, difficulty, share = _study(0)
    share[:20] = np.nan
    fit = fit_length_control(delta, difficulty, share, None)
    assert np.isfinite(fit.lc_win_rate)
    share[20:] = np.nan
    with pytest.raises(DataError, match="0 verdicts"):
        fit_length_control(delta, difficulty, share, None)


def test_equal_lengths_are_refused() -> None:
    _, difficulty, share = _study(0)
    with pytest.raises(DataError, match="same length"):
        fit_length_control(np.full(len(share), 7.0), difficulty, share, None)
