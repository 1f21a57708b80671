"""The search space, and a sampler that never tries the same parameters twice."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from cnnClassifier.entity.config_entity import Between, Choice

Space = Mapping[str, Choice | Between]
_MAX_ATTEMPTS = (
    20  # to draw untried parameters, before the first untried ones of the grid are taken
)
_SIGNIFICANT_DIGITS = 3  # of sampled real numbers


def to_distributions(space: Space) -> dict[str, BaseDistribution]:
    """Convert the search space to Optuna's distributions."""
    distributions: dict[str, BaseDistribution] = {}
    for name, dimension in space.items():
        if isinstance(dimension, Choice):
            distributions[name] = CategoricalDistribution(dimension.values)
            continue
        low, high, log, step = dimension.low, dimension.high, dimension.log, dimension.step
        if dimension.whole:
            distributions[name] = IntDistribution(int(low), int(high), log, int(step or 1))
        else:
            distributions[name] = FloatDistribution(low, high, log, step)
    return distributions


def grid_size(space: Space) -> float:
    """Return the number of different trials; infinity if a parameter is continuous."""
    grid = _grid(to_distributions(space))
    return math.inf if grid is None else math.prod(map(len, grid.values()))


def active_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials in their order, without those that failed or were handed back."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


class UniqueSampler(BaseSampler):
    """Sample initial parameters first, then at random, then by TPE (Bergstra et al. 2011).

    The parameters of a trial depend on the seed and on the earlier trials, not on the process: a
    search that was interrupted continues with the same trials, and two processes draw different
    ones.

    Args:
        space: the search space.
        initial: parameters of the first trial, used if they are within the space.
        seed: the same seed and history give the same trials.
    """

    def __init__(self, space: Space, initial: Mapping[str, Any], seed: int) -> None:
        self._seed = seed
        self._distributions = to_distributions(space)
        self._grid = _grid(self._distributions)
        self._constants, self._sampled = {}, {}
        for name, distribution in self._distributions.items():
            if distribution.single():
                self._constants[name] = space[name].values[0]  # type: ignore[union-attr]
            else:
                self._sampled[name] = distribution
        self._initial: dict[str, Any] | None = {name: initial[name] for name in space}
        try:
            create_trial(value=0.0, params=self._initial, distributions=self._distributions)
        except ValueError:
            self._initial = None  # not within the space

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters that have more than one value."""
        return self._sampled

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample all parameters of a trial."""
        others = [other for other in active_trials(study) if other.number != trial.number]
        position = sum(other.number < trial.number for other in others)
        tried = [other.params for other in others]
        if position == 0 and self._initial and self._initial not in tried:
            return self._initial
        for attempt in range(_MAX_ATTEMPTS):
            sequence = np.random.SeedSequence([self._seed, position, attempt])
            seed = int(sequence.generate_state(1)[0])
            sampler = TPESampler(seed=seed)  # random for the first trials of a study
            params = sampler.sample_relative(study, trial, search_space)
            for name, distribution in search_space.items():
                if name not in params:
                    params[name] = sampler.sample_independent(study, trial, name, distribution)
                params[name] = _round(distribution, params[name])
            params = self._constants | params
            if params not in tried:
                return params
        for values in product(*self._grid.values()) if self._grid else ():
            candidate = dict(zip(self._distributions, values, strict=True))
            if candidate not in tried:
                return candidate
        return params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Sample one parameter; Optuna requires this method, but all are sampled together."""
        sampler = RandomSampler(seed=self._seed)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


def _grid(distributions: Mapping[str, Any]) -> dict[str, tuple[Any, ...]] | None:
    """Return all values of each parameter; None if one is continuous."""
    grid = {}
    for name, distribution in distributions.items():
        if isinstance(distribution, CategoricalDistribution):
            grid[name] = distribution.choices
        elif distribution.step is None:
            return None
        else:
            low, step = distribution.low, distribution.step
            count = int((distribution.high - low) / step + 1e-9) + 1
            grid[name] = tuple(round(low + i * step, 12) for i in range(count))
    return grid


def _round(distribution: BaseDistribution, value: Any) -> Any:
    """Round real numbers to what a person would write."""
    if not isinstance(distribution, FloatDistribution):
        return value
    if distribution.step is not None:
        return round(value, 12)
    rounded = float(f"{value:.{_SIGNIFICANT_DIGITS}g}")
    return min(max(rounded, distribution.low), distribution.high)
