"""L1-regularised logistic regression on a liblinear path: same steps, same stopping rule, same random order.

Cross-validation scores of two strengths often differ by less than a solver's tolerance. To choose the one
that scikit-learn's liblinear chooses, the path has to be followed to its stopping point, not to the minimum:
newGLMNET (Yuan, Ho and Lin 2012, JMLR 13, algorithm 3 with section 5.1's stopping rules), for few features.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

TOLERANCE = 1e-4
MAX_NEWTON = 100
MAX_DESCENT = 1000
MAX_HALVINGS = 20
RIDGE = 1e-12
SUFFICIENT = 0.01
"""Share of the predicted decrease that a step must reach (Armijo's sigma)."""


class _Order:
    """The Mersenne twister's bounded integers as scikit-learn draws them for `random_state=123` (Lemire).

    One generator deals a seed to every strength of a path: `position` is the strength's place in it.
    """

    def __init__(self, position: int) -> None:
        seeds = np.random.RandomState(123).randint(np.iinfo("i").max, size=position + 1)
        self._source = np.random.RandomState(int(seeds[-1]))

    def below(self, limit: int) -> int:
        threshold = (2**32 - limit) % limit
        while True:
            product = self._draw() * limit
            if product % 2**32 >= threshold:
                return product >> 32

    def _draw(self) -> int:
        return int(self._source.randint(0, 2**32, dtype=np.uint32))

    def shuffle(self, items: list[int], size: int) -> None:
        for j in range(size):
            i = j + self.below(size - j)
            items[i], items[j] = items[j], items[i]


def fit_path_point(
    design: Array, targets: Array, weights: Array, strength: float, position: int = 0
) -> Array:
    """Return liblinear's coefficients for soft labels, each standing for its two weighted copies.

    Args:
        design: [n, d] with few columns.
        targets: [n], shares in [0, 1].
        weights: [n], non-negative.
        strength: C.
        position: of the strength in the path it belongs to, which decides the random order.

    """
    kept = weights > 0
    x, y, v = design[kept], targets[kept], strength * weights[kept]
    positive, negative = int((y > 0).sum()), int((y < 1).sum())
    rows = positive + negative
    limit = TOLERANCE * max(min(positive, negative), 1) / rows
    state = _State(x, y, v, rows, _Order(position))
    for newton in range(MAX_NEWTON):
        violation = state.outer_violation()
        if newton == 0:
            state.first_violation = violation
        if violation <= limit * state.first_violation:
            break
        sweeps = state.solve_quadratic()
        state.line_search()
        if sweeps == 1:
            state.inner_tolerance *= 0.25
    return state.solution


class _State:
    def __init__(self, x: Array, y: Array, v: Array, rows: int, order: _Order) -> None:
        self.x, self.y, self.v, self.rows = x, y, v, rows
        width = x.shape[1]
        self.solution = np.zeros(width)
        self.trial = np.zeros(width)
        self.scores = np.zeros(len(x))
        self.gradient = np.zeros(width)
        self.index = list(range(width))
        self.active = width
        self.inner_tolerance = 1.0
        self.first_violation = 0.0
        self.largest = float("inf")
        self.order = order

    def outer_violation(self) -> float:
        """Return the 1-norm of the smallest subgradient; features that will stay 0 leave the active set."""
        probability = special.expit(self.scores)
        self.gradient = self.x.T @ (self.v * (probability - self.y))
        self.curvature = self.x.T @ (self.x * (self.v * probability * (1 - probability))[:, None])
        total, largest = 0.0, 0.0
        self.active, s = len(self.index), 0
        while s < self.active:
            j = self.index[s]
            violation = _violation(self.gradient[j], self.solution[j], self.largest / self.rows)
            if violation is None:
                self.active -= 1
                self.index[s], self.index[self.active] = self.index[self.active], self.index[s]
                continue
            total, largest = total + violation, max(largest, violation)
            s += 1
        self.next_largest = largest
        return total

    def solve_quadratic(self) -> int:
        """Coordinate descent on the quadratic model until its violation is below the inner tolerance."""
        hessian = self.curvature.tolist()
        gradient, start = self.gradient.tolist(), self.solution.tolist()
        trial = self.solution.tolist()
        width = len(trial)
        previous, size = float("inf"), self.active
        sweeps = 0
        while sweeps < MAX_DESCENT:
            sweeps += 1
            self.order.shuffle(self.index, size)
            total, largest, s = 0.0, 0.0, 0
            while s < size:
                j = self.index[s]
                moved = sum(hessian[j][k] * (trial[k] - start[k]) for k in range(width))
                slope = gradient[j] + (trial[j] - start[j]) * RIDGE + moved
                violation = _violation(slope, trial[j], previous / self.rows)
                if violation is None:
                    size -= 1
                    self.index[s], self.index[size] = self.index[size], self.index[s]
                    continue
                total, largest = total + violation, max(largest, violation)
                trial[j] += _coordinate(slope, hessian[j][j] + RIDGE, trial[j])
                s += 1
            if total <= self.inner_tolerance * self.first_violation:
                if size == self.active:
                    break
                size, previous = self.active, float("inf")
            else:
                previous = largest
        self.trial = np.array(trial)
        return sweeps

    def line_search(self) -> None:
        """Halve the step until the objective falls by a share of what the model promised."""
        norm = float(np.abs(self.solution).sum())
        step = self.trial - self.solution
        promised = float(self.gradient @ step) + float(np.abs(self.trial).sum()) - norm
        along = self.x @ step
        before = np.logaddexp(0, self.scores) - self.y * self.scores
        size = 1.0
        for _ in range(MAX_HALVINGS):
            scores = self.scores + size * along
            trial = self.solution + size * step
            loss = float((self.v * (np.logaddexp(0, scores) - self.y * scores - before)).sum())
            if float(np.abs(trial).sum()) - norm + loss - SUFFICIENT * size * promised <= 0:
                self.solution, self.scores = trial, scores
                break
            size /= 2
        self.largest = self.next_largest


def _violation(slope: float, value: float, reach: float) -> float | None:
    """Return the size of the smallest subgradient, or None where the coordinate is safely at 0."""
    up, down = slope + 1, slope - 1
    if value > 0:
        return abs(up)
    if value < 0:
        return abs(down)
    if up < 0:
        return -up
    if down > 0:
        return down
    return None if up > reach and down < -reach else 0.0


def _coordinate(slope: float, curvature: float, value: float) -> float:
    if slope + 1 < curvature * value:
        step = -(slope + 1) / curvature
    elif slope - 1 > curvature * value:
        step = -(slope - 1) / curvature
    else:
        step = -value
    return 0.0 if abs(step) < 1e-12 else min(max(step, -10.0), 10.0)
