"""An Optuna study that several processes share: no trial runs twice, and none is lost."""

import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sklearn.model_selection import ParameterGrid
from sqlalchemy import create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from cnnClassifier.entity.config_entity import Between, Choice
from cnnClassifier.utils.common import create_directories
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_credentials, redact_url

Space = Mapping[str, Choice | Between]
_MAX_ATTEMPTS = 20  # to draw values that no trial has
_TABLES_LOCK = 7_230_117  # any number that no other program uses in the same database
_HEARTBEAT, _ATTEMPT = "heartbeat", "attempt"  # user attributes of a trial


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution of each parameter."""
    found: dict[str, BaseDistribution] = {}
    for name, span in space.items():
        if isinstance(span, Choice):
            found[name] = CategoricalDistribution(span.values)
        elif span.whole:
            step = int(span.step or 1)
            found[name] = IntDistribution(int(span.low), int(span.high), span.log, step)
        else:
            found[name] = FloatDistribution(span.low, span.high, span.log, span.step)
    return found


def grid(space: Space) -> ParameterGrid | None:
    """Return all combinations of values; None if a range is continuous."""
    values = {}
    for name, span in space.items():
        if isinstance(span, Choice):
            values[name] = list(span.values)
        elif span.step or span.whole:
            steps = np.arange(span.low, span.high + 1e-9, span.step or 1)
            values[name] = steps.round(12).tolist()
        else:
            return None
    return ParameterGrid(values)


def active_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return all trials in order, except those that were interrupted or withdrawn."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the finished trials in order, pruned ones included."""
    return [trial for trial in active_trials(study) if trial.state.is_finished()]


class Sampler(TPESampler):
    """Try the parameters of params.yaml first, then random ones, then TPE (Bergstra et al. 2011).

    The values of a trial depend on the seed and on the trials before it, not on the process. So an
    interrupted search continues with the same trials, and two processes never draw the same.

    Args:
        space: the search space.
        first: the parameters of the first trial, if they are in the search space.
        seed: the same seed and history give the same trials.

    Attributes:
        distributions: of the parameters.
    """

    def __init__(self, space: Space, first: Mapping[str, Any], seed: int) -> None:
        super().__init__(seed=seed)
        self._space = space
        self._seed = seed
        self.distributions = distributions(space)
        self._first: dict[str, Any] | None = None
        with suppress(ValueError):  # Optuna refuses values outside the search space
            params = {name: first[name] for name in space}
            create_trial(value=0.0, params=params, distributions=self.distributions)
            self._first = params

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all parameters: they are drawn together."""
        return self.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw all parameters of a trial."""
        others = [other for other in active_trials(study) if other.number != trial.number]
        tried = [other.params for other in others]
        index = sum(other.number < trial.number for other in others)
        if index == 0 and self._first and self._first not in tried:
            return self._first
        for attempt in range(_MAX_ATTEMPTS):
            rng = np.random.default_rng([self._seed, index, attempt])
            params = self._draw(study, trial, int(rng.integers(2**32)))
            if params not in tried:
                return params
        remaining = [params for params in grid(self._space) or () if params not in tried]
        return remaining[rng.integers(len(remaining))] if remaining else params

    def _draw(self, study: optuna.Study, trial: FrozenTrial, seed: int) -> dict[str, Any]:
        sampler = TPESampler(seed=seed)
        params = {}
        for name, distribution in self.distributions.items():
            value = sampler.sample_independent(study, trial, name, distribution)
            if isinstance(distribution, FloatDistribution):
                digits = 12 if distribution.step else 3
                value = min(max(float(f"{value:.{digits}g}"), distribution.low), distribution.high)
            params[name] = value
        return params


class SharedStudy:
    """One search, of which any number of processes do a part.

    Optuna's own heartbeat doesn't support journals, and compares the clocks of machines.

    Args:
        url: `sqlite:///PATH`, `journal:///PATH` or another database of SQLAlchemy.
        name: of the study; an existing one is continued.
        minimize: whether a lower value is better.
        space: the search space.
        first: the parameters of the first trial, if they are in the search space.
        seed: of the sampler.
        stale_after_s: seconds without a heartbeat after which another process takes over a trial.

    Attributes:
        study: Optuna's.
        size: number of different trials, which may be infinite.

    Raises:
        UserError: the storage can't be opened.
    """

    def __init__(
        self,
        url: str,
        name: str,
        minimize: bool,
        space: Space,
        first: Mapping[str, Any],
        seed: int,
        stale_after_s: float,
    ) -> None:
        sampler = Sampler(space, first, seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=_open_storage(url),
            study_name=name,
            direction="minimize" if minimize else "maximize",
            sampler=sampler,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=5),
            load_if_exists=True,
        )
        combinations = grid(space)
        self.size = len(combinations) if combinations else math.inf
        self._distributions = sampler.distributions
        self._stale_after_s = stale_after_s
        self._first_seen: dict[tuple[int, Any], float] = {}

    def run(
        self, evaluate: Callable[[Trial], float | None], max_trials: int, deadline: float
    ) -> None:
        """Do trials until the study has enough; wait for those of other processes.

        Args:
            evaluate: returns the value of a trial, or None to prune it. If it raises, the trial is
                given back: it will be repeated, up to three times.
            max_trials: number of finished trials in the whole study, at most `size`.
            deadline: when to stop starting trials, by `time.monotonic`.
        """
        while trial := self._next(max_trials, deadline):
            stop = threading.Event()
            target, args = self._send_heartbeats, (trial, stop)
            heartbeat = threading.Thread(target=target, args=args, name="heartbeat", daemon=True)
            heartbeat.start()
            try:
                value = evaluate(trial)
            except BaseException:
                self._repeat(self.study.get_trials(deepcopy=False)[trial.number])
                raise
            finally:
                stop.set()
                heartbeat.join()
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            if self._end(trial.number, state, value):
                result = "pruned" if value is None else f"value {value:.4f}"
                count = len(finished_trials(self.study))
                logger.info("trial %d, %d of %d done: %s", trial.number, count, max_trials, result)
            else:
                logger.warning("trial %d: another process has taken it over", trial.number)

    def _next(self, max_trials: int, deadline: float) -> Trial | None:
        """Return a new or interrupted trial; None if there are enough or the time is over."""
        waiting = False
        while time.monotonic() < deadline:
            self._take_over()
            trials = active_trials(self.study)
            states = [trial.state for trial in trials]
            if sum(state.is_finished() for state in states) >= max_trials:
                return None
            if len(trials) < max_trials or TrialState.WAITING in states:
                with suppress(UpdateFinishedTrialError):  # another process has taken it over
                    trial = self.study.ask(self._distributions)
                    if self._is_needed(trial, max_trials):
                        return trial
                    self._end(trial.number, TrialState.FAIL)
                continue
            if not waiting:
                logger.info("waiting for the trials of other processes")
                waiting = True
            time.sleep(0.5)
        return None

    def _is_needed(self, trial: Trial, max_trials: int) -> bool:
        """Check that no other process has drawn the same values, or the last trial, meanwhile."""
        others = [other for other in active_trials(self.study) if other.number != trial.number]
        if trial.params in [other.params for other in others]:
            return False
        return sum(other.number < trial.number for other in others) < max_trials

    def _take_over(self) -> None:
        """Repeat the trials of dead processes; only this process's clock matters."""
        now = time.monotonic()
        for trial in active_trials(self.study):
            heartbeat = (trial.number, trial.user_attrs.get(_HEARTBEAT))
            age = now - self._first_seen.setdefault(heartbeat, now)
            if trial.state == TrialState.RUNNING and age > self._stale_after_s:
                logger.warning("trial %d: its process has ended; it is repeated", trial.number)
                self._repeat(trial)

    def _repeat(self, trial: FrozenTrial) -> None:
        # At most three attempts: the trial itself may be what ends its process.
        attempt = trial.user_attrs.get(_ATTEMPT, 1)
        complete = trial.params.keys() == self._distributions.keys()
        if self._end(trial.number, TrialState.FAIL) and complete and attempt < 3:
            again = create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={_ATTEMPT: attempt + 1},
            )
            self.study.add_trial(again)

    def _end(self, number: int, state: TrialState, value: float | None = None) -> bool:
        """Return whether the trial had not ended before."""
        try:
            self.study.tell(number, value, state)
        except (ValueError, UpdateFinishedTrialError):
            return False
        return True

    def _send_heartbeats(self, trial: Trial, stop: threading.Event) -> None:
        count = 0
        while not stop.wait(self._stale_after_s / 6):
            count += 1
            with suppress(UpdateFinishedTrialError):
                trial.set_user_attr(_HEARTBEAT, count)


def _open_storage(url: str) -> BaseStorage:
    scheme, _, path = url.partition(":///")
    try:
        if scheme not in ("journal", "sqlite"):
            return _open_postgresql(url)
        create_directories(Path(path).parent)
        if scheme == "journal":
            # The default lock makes a link, which needs rights on Windows.
            return JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))
        arguments = {"timeout": 60, "isolation_level": None}
        with FileLock(f"{path.partition('?')[0]}.lock"):  # two processes may create the tables
            storage = RDBStorage(url, {"connect_args": arguments})
    except (ImportError, OptunaError, SQLAlchemyError, OSError) as error:
        message = redact_credentials(" ".join(str(error.__cause__ or error).split()))[:200]
        where = redact_url(url)
        raise UserError(
            f"search.storage: {where} can't be opened: {message}; PostgreSQL needs its driver: "
            "pip install -r requirements-scale.txt"
        ) from None
    # Optuna reads before it writes: without this lock two processes may take the same trial.
    event.listen(storage.engine, "begin", _begin_immediate)
    event.listen(storage.engine, "connect", _set_pragmas)
    storage.engine.dispose()
    return storage


def _open_postgresql(url: str) -> BaseStorage:
    # Without a driver's name SQLAlchemy takes psycopg2, which is no longer developed.
    url = re.sub("^postgresql:", "postgresql+psycopg:", url)
    engine = create_engine(url)
    with engine.begin() as connection:  # two processes may create the tables
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_TABLES_LOCK})")
        storage = RDBStorage(url)
    engine.dispose()
    return storage


def _begin_immediate(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _set_pragmas(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # safe with WAL, and five times as fast
