"""A study that several processes and machines share: no trial is done twice, and none is lost.

Optuna's own heartbeat exists only for its RDB storage, not for journal files, and only inside
`Study.optimize`. This one works with every storage.
"""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from cnnClassifier.tuning.search_space import (
    Space,
    UniqueSampler,
    active_trials,
    grid_size,
    to_distributions,
)
from cnnClassifier.utils.common import create_directories
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.log import logger

_POLL_INTERVAL_S = 0.5
_OPEN_ATTEMPTS = 3
_MAX_TRIAL_ATTEMPTS = 3  # of a trial whose process dies: the trial may be the reason
_PRUNER_STARTUP_TRIALS = 5
_SQLITE_TIMEOUT_S = 60
_HEARTBEAT, _ATTEMPT = "heartbeat", "attempt"  # attributes of a trial


class SearchError(UserError):
    """The study can't be opened."""


class SharedStudy:
    """One search that any number of processes work on.

    Args:
        url: `sqlite:///PATH`, `journal:///PATH` or another database URL of SQLAlchemy.
        name: of the study; an existing one is continued.
        minimize: whether lower values are better.
        space: the search space.
        initial: parameters of the first trial, used if they are within the space.
        seed: of the sampler.
        stale_after_s: seconds without a heartbeat after which a trial is taken over.

    Attributes:
        study: the Optuna study.
        size: number of different trials in the space, may be infinity.

    Raises:
        SearchError: the storage can't be opened.
    """

    def __init__(
        self,
        url: str,
        name: str,
        minimize: bool,
        space: Space,
        initial: Mapping[str, Any],
        seed: int,
        stale_after_s: float,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=_open_storage(url),
            study_name=name,
            direction="minimize" if minimize else "maximize",
            sampler=UniqueSampler(space, initial, seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_PRUNER_STARTUP_TRIALS),
            load_if_exists=True,
        )
        self.size = grid_size(space)
        self._distributions = to_distributions(space)
        self._stale_after_s = stale_after_s
        self._first_seen: dict[tuple[int, Any], float] = {}

    def finished(self) -> list[FrozenTrial]:
        """Return the finished trials in their order, pruned ones included."""
        return [trial for trial in active_trials(self.study) if trial.state.is_finished()]

    @contextmanager
    def next_trial(self, max_trials: int, deadline: float) -> Iterator[Trial | None]:
        """Take the next trial, and send heartbeats while the block works on it.

        If other processes work on the remaining trials, wait: a trial that one of them loses is
        done here. If the block raises an error, the trial is handed back.

        Args:
            max_trials: number of finished trials at which the study is complete.
            deadline: no trial begins after this time, as of `time.monotonic`.

        Yields:
            The trial; None if the study is complete or the deadline is over.
        """
        trial = self._wait_for_trial(max_trials, deadline)
        if trial is None:
            yield None
            return
        stop = threading.Event()
        arguments = (trial, stop)
        heartbeat = threading.Thread(target=self._send_heartbeats, args=arguments, daemon=True)
        heartbeat.start()
        try:
            yield trial
        except BaseException:
            self._hand_back(self.study.get_trials(deepcopy=False)[trial.number])
            raise
        finally:
            stop.set()
            heartbeat.join()

    def finish(self, trial: Trial, value: float | None) -> bool:
        """Record the value of a trial; None: it was pruned.

        Returns:
            Whether it was recorded; False if another process took the trial over.
        """
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        return self._end(trial.number, state, value)

    def _wait_for_trial(self, max_trials: int, deadline: float) -> Trial | None:
        is_waiting = False
        while time.monotonic() < deadline:
            self._take_over_stale_trials()
            trials = active_trials(self.study)
            if sum(trial.state.is_finished() for trial in trials) >= max_trials:
                return None
            if len(trials) < max_trials or any(t.state == TrialState.WAITING for t in trials):
                with suppress(UpdateFinishedTrialError):  # another process took it over
                    trial = self.study.ask(self._distributions)
                    if self._is_needed(trial, max_trials):
                        return trial
                    self._end(trial.number, TrialState.FAIL)
                continue
            if not is_waiting:
                logger.info("waiting for the trials of other processes")
            is_waiting = True
            time.sleep(_POLL_INTERVAL_S)
        return None

    def _is_needed(self, trial: Trial, max_trials: int) -> bool:
        """Check that no other process drew the same trial, or the last one, at the same time."""
        others = [other for other in active_trials(self.study) if other.number != trial.number]
        earlier = sum(other.number < trial.number for other in others)
        return earlier < max_trials and trial.params not in [other.params for other in others]

    def _take_over_stale_trials(self) -> None:
        """Hand back trials without a new heartbeat, by this process's clock alone."""
        now = time.monotonic()
        for trial in active_trials(self.study):
            if trial.state != TrialState.RUNNING:
                continue
            key = (trial.number, trial.user_attrs.get(_HEARTBEAT))
            if now - self._first_seen.setdefault(key, now) > self._stale_after_s:
                logger.warning("trial %d: its process has died; it is repeated", trial.number)
                self._hand_back(trial)

    def _hand_back(self, trial: FrozenTrial) -> None:
        """Mark a trial as failed, and queue its parameters again."""
        attempt = trial.user_attrs.get(_ATTEMPT, 1)
        is_complete = trial.params.keys() == self._distributions.keys()
        ended = self._end(trial.number, TrialState.FAIL)
        if ended and is_complete and attempt < _MAX_TRIAL_ATTEMPTS:
            # Not `enqueue_trial`: the sampler has to see the parameters of waiting trials.
            repetition = optuna.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={_ATTEMPT: attempt + 1},
            )
            self.study.add_trial(repetition)

    def _end(self, number: int, state: TrialState, value: float | None = None) -> bool:
        """End a trial; return False if another process did."""
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
    location = re.sub(r"(?<=://)[^/]*@", "", url)  # without user and password
    reason = ""
    for attempt in range(_OPEN_ATTEMPTS):
        time.sleep(attempt)
        try:
            return _create_storage(url)
        except ImportError:
            driver = re.match(r"\w+\+(\w+):", url)
            package = driver[1] if driver else "psycopg[binary]"  # SQLAlchemy's default
            raise SearchError(
                f'search.storage: {location} needs a driver; pip install "{package}"'
            ) from None
        except (OptunaError, SQLAlchemyError, OSError) as error:
            # Two processes that create the tables of a server at once: the second try finds them.
            reason = " ".join(str(error).split())[:200]
    raise SearchError(f"search.storage: {location} can't be opened: {reason}")


def _create_storage(url: str) -> BaseStorage:
    scheme, _, path = url.partition(":///")
    if scheme not in ("journal", "sqlite"):
        return RDBStorage(url)
    create_directories(Path(path).parent)
    if scheme == "journal":
        # The default lock is a symbolic link, which needs extra rights on Windows.
        return JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))
    with FileLock(f"{path.partition('?')[0]}.lock"):  # one process creates the tables
        storage = RDBStorage(url, {"connect_args": {"timeout": _SQLITE_TIMEOUT_S}})
    # Optuna reads before it writes: without a lock from the start, two processes take one trial.
    event.listen(storage.engine, "connect", _configure_sqlite)
    event.listen(storage.engine, "begin", lambda link: link.exec_driver_sql("BEGIN IMMEDIATE"))
    storage.engine.dispose()
    return storage


def _configure_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy controls the transactions
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing; 5x as fast
