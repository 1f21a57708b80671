"""What to try next: never the same twice, and the same again for the same seed and history."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, TypeGuard

import numpy as np
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from cnnClassifier.entity.config_entity import Between, Choice

Space = Mapping[str, Choice | Between]
_TRIES = 20  # that meet what was tried already, until one of what is left is drawn
_DIGITS = 3  # of numbers between two others: what a person would write


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the space in Optuna's words."""
    return {name: _distribution(span) for name, span in space.items()}


def _distribution(span: Choice | Between) -> BaseDistribution:
    if isinstance(span, Choice):
        return CategoricalDistribution(span.values)
    if span.whole:
        return IntDistribution(
            int(span.low), int(span.high), log=span.log, step=int(span.step or 1)
        )
    return FloatDistribution(span.low, span.high, log=span.log, step=span.step)


def size_of(space: Space) -> float:
    """Return how many different trials a space has; infinity where a number may be any between two others."""
    return math.prod(
        math.inf if values is None else len(values) for values in map(_values, space.values())
    )


def _values(span: Choice | Between) -> tuple[Any, ...] | None:
    if isinstance(span, Choice):
        return span.values
    if span.step is None and not span.whole:
        return None
    step = span.step or 1
    return tuple(
        _tidy(span.low + number * step)
        for number in range(int((span.high - span.low) / step + 1e-9) + 1)
    )


def _tidy(value: float) -> float:
    return round(value, 12)


def living(study: Study) -> list[FrozenTrial]:
    """Return the trials that count, in order: all but those that were given back or withdrawn."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


class Sampler(BaseSampler):
    """Try first what there is, then at random, then by TPE (Bergstra et al. 2011).

    What a trial gets depends on the seed and on how many come before it, not on the process: one that was stopped
    and goes on tries the same as one that wasn't, and two at once never draw alike.

    Args:
        space: of the parameters.
        first: what the first trial gets, where it lies within the space.
        seed: equal seeds and histories give equal trials.
    """

    def __init__(self, space: Space, first: Mapping[str, Any], seed: int) -> None:
        self._space = space
        found = distributions(space)
        self._drawn = {
            name: distribution for name, distribution in found.items() if not distribution.single()
        }
        self._alone = {name: span.values[0] for name, span in space.items() if _is_alone(span)}
        self._first = {name: first[name] for name in space}
        self._seed = seed

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all that there is a choice of."""
        return self._drawn

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw all parameters of a trial."""
        others = [other for other in living(study) if other.number != trial.number]
        before = sum(other.number < trial.number for other in others)
        taken = [other.params for other in others]
        if (
            before == 0
            and self._first not in taken
            and all(map(_holds, self._space.values(), self._first.values()))
        ):
            return self._first
        params: dict[str, Any] = {}
        for attempt in range(_TRIES):
            seed = int(np.random.SeedSequence([self._seed, before, attempt]).generate_state(1)[0])
            params = TPESampler(seed=seed).sample_relative(study, trial, search_space)
            random = RandomSampler(seed=seed)
            params = params or {
                name: random.sample_independent(study, trial, name, distribution)
                for name, distribution in search_space.items()
            }
            params = self._alone | {
                name: _round(self._space[name], value) for name, value in params.items()
            }
            if params not in taken:
                return params
        values = [_values(span) for span in self._space.values()]
        if None in values:
            return params
        left = [
            p
            for p in (dict(zip(self._space, v, strict=True)) for v in product(*values))
            if p not in taken
        ]  # type: ignore[arg-type]
        return left[int(np.random.default_rng(seed).integers(len(left)))] if left else params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter, as Optuna asks of a sampler; here all are drawn at once."""
        return RandomSampler(seed=self._seed).sample_independent(
            study, trial, param_name, param_distribution
        )


def _is_alone(span: Choice | Between) -> TypeGuard[Choice]:
    return isinstance(span, Choice) and len(span.values) == 1


def _round(span: Choice | Between, value: Any) -> Any:
    if isinstance(span, Choice) or span.whole:
        return value
    if span.step is not None:
        return _tidy(value)
    return min(max(float(f"{value:.{_DIGITS}g}"), span.low), span.high)


def _holds(span: Choice | Between, value: Any) -> bool:
    values = _values(span)
    if values is not None:
        return value in values
    return isinstance(span, Between) and span.low <= value <= span.high
