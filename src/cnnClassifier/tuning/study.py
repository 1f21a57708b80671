"""A study that several processes and machines work on at once: no trial is done twice, and none is lost."""

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

from cnnClassifier.tuning.search_space import Sampler, Space, distributions, living, size_of
from cnnClassifier.utils.common import create_directories
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.log import logger

_POLL_S = 0.5
_OPENINGS = 3
_MOST_TRIES = 3  # of a trial whose process dies: it may be the trial that kills it
_JUDGED_FIRST = 5  # trials that are finished before any is given up
_SQLITE_WAIT_S = 60  # for another process's transaction
_BEAT, _TRIES = "beat", "tries"  # names of a trial's attributes


class SearchError(UserError):
    """The study can't be opened, or there is nothing to search."""


class SharedStudy:
    """One search, of which any number of processes do a part.

    Args:
        url: `sqlite:///PATH`, `journal:///PATH` or another database that SQLAlchemy knows.
        name: of the study; one that exists is gone on with.
        minimise: whether less is better.
        space: of the parameters.
        first: what the first trial tries, where it lies within the space.
        seed: of the sampler.
        stale_after_s: seconds without a sign of life until a trial is taken over.

    Attributes:
        study: Optuna's.
        size: how many different trials there can be.

    Raises:
        SearchError: the storage can't be opened.
    """

    def __init__(
        self,
        url: str,
        name: str,
        minimise: bool,
        space: Space,
        first: Mapping[str, Any],
        seed: int,
        stale_after_s: float,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=_open(url),
            study_name=name,
            direction="minimize" if minimise else "maximize",
            sampler=Sampler(space, first, seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_JUDGED_FIRST),
            load_if_exists=True,
        )
        self.size = size_of(space)
        self._distributions = distributions(space)
        self._grace_s = stale_after_s
        self._seen: dict[tuple[int, Any], float] = {}

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that are done, those that were given up early among them, in order."""
        return [trial for trial in living(self.study) if trial.state.is_finished()]

    @contextmanager
    def begin(self, most: int, until: float) -> Iterator[Trial | None]:
        """Take the next trial; while the block works on it, other processes see that it is being worked on.

        Where the rest is in other processes' hands, wait: what one of them loses is done here. When the block raises,
        the trial is given back.

        Args:
            most: finished trials in the whole study that are enough.
            until: when to stop waiting, by `time.monotonic`.

        Yields:
            The trial; None where there are enough, or the time is over.
        """
        trial = self._next(most, until)
        if trial is None:
            yield None
            return
        stop = threading.Event()
        sign = threading.Thread(
            target=self._beat, args=(trial, stop), name="search-beat", daemon=True
        )
        sign.start()
        try:
            yield trial
        except BaseException:
            self._give_back(
                next(t for t in self.study.get_trials(deepcopy=False) if t.number == trial.number)
            )
            raise
        finally:
            stop.set()
            sign.join()

    def finish(self, trial: Trial, value: float | None) -> bool:
        """Record how a trial came out: its value, or None where it was given up early.

        Returns:
            Whether it counts; not where another process took it over meanwhile.
        """
        return self._end(
            trial.number, TrialState.PRUNED if value is None else TrialState.COMPLETE, value
        )

    def _next(self, most: int, until: float) -> Trial | None:
        said = False
        while time.monotonic() < until:
            self._take_over()
            trials = living(self.study)
            if sum(trial.state.is_finished() for trial in trials) >= most:
                return None
            if len(trials) < most or any(trial.state == TrialState.WAITING for trial in trials):
                with suppress(UpdateFinishedTrialError):  # taken over before it was begun
                    trial = self.study.ask(self._distributions)
                    if self._is_wanted(trial, most):
                        return trial
                    self._end(trial.number, TrialState.FAIL)
            else:
                if not said:
                    logger.info("waiting for the trials of other processes")
                    said = True
                time.sleep(_POLL_S)
        return None

    def _is_wanted(self, trial: Trial, most: int) -> bool:
        """Of processes that drew at once one too many, or the same, not all go on."""
        others = [other for other in living(self.study) if other.number != trial.number]
        return sum(other.number < trial.number for other in others) < most and not any(
            other.params == trial.params for other in others
        )

    def _take_over(self) -> None:
        """Give back trials that no process works on any more; no clock but this process's own has to be right."""
        now = time.monotonic()
        for trial in living(self.study):
            sign = (trial.number, trial.user_attrs.get(_BEAT))
            if (
                trial.state == TrialState.RUNNING
                and now - self._seen.setdefault(sign, now) > self._grace_s
            ):
                logger.warning("trial %d: its process is gone; it will be done again", trial.number)
                self._give_back(trial)

    def _give_back(self, trial: FrozenTrial) -> None:
        tries = trial.user_attrs.get(_TRIES, 1)
        complete = trial.params.keys() == self._distributions.keys()
        if self._end(trial.number, TrialState.FAIL) and complete and tries < _MOST_TRIES:
            again = optuna.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={_TRIES: tries + 1},
            )
            self.study.add_trial(again)

    def _end(self, number: int, state: TrialState, value: float | None = None) -> bool:
        """Tell whether it was this process that ended the trial."""
        try:
            self.study.tell(number, value, state)
        except (ValueError, UpdateFinishedTrialError):
            return False
        return True

    def _beat(self, trial: Trial, stop: threading.Event) -> None:
        beats = 0
        while not stop.wait(self._grace_s / 6):
            beats += 1
            with suppress(UpdateFinishedTrialError):
                trial.set_user_attr(_BEAT, beats)


def _open(url: str) -> BaseStorage:
    place = re.sub(r"(?<=://)[^/]*@", "", url)
    for attempt in range(_OPENINGS):
        try:
            return _storage(url)
        except ImportError:
            driver = re.match(r"\w+\+(\w+):", url)
            wanted = (
                driver[1] if driver else "psycopg[binary]"
            )  # what SQLAlchemy takes where none is named
            raise SearchError(
                f'search.storage: {place} wants a driver; pip install "{wanted}"'
            ) from None
        except (OptunaError, SQLAlchemyError, OSError) as error:
            failure = error
            time.sleep(
                attempt
            )  # two that make a server's tables at once: the second finds them made
    raise SearchError(
        f"search.storage: {place} can't be opened: {' '.join(str(failure).split())[:200]}"
    )


def _storage(url: str) -> BaseStorage:
    scheme, _, path = url.partition(":///")
    if scheme in ("journal", "sqlite"):
        create_directories(Path(path).parent)
    if scheme == "journal":
        return JournalStorage(
            JournalFileBackend(path, JournalFileOpenLock(path))
        )  # links want rights on Windows
    if scheme != "sqlite":
        return RDBStorage(url)
    with FileLock(
        f"{path.partition('?')[0]}.lock"
    ):  # of two that make the tables at once each meets the other's
        storage = RDBStorage(url, {"connect_args": {"timeout": _SQLITE_WAIT_S}})
    # Optuna reads before it writes: a transaction that doesn't lock from the start lets two take the same trial.
    event.listen(storage.engine, "connect", _set_up_sqlite)
    event.listen(
        storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
    )
    storage.engine.dispose()
    return storage


def _set_up_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # leaves transactions to SQLAlchemy
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
    ):  # a killed process still loses nothing; 5 times as fast
        connection.execute(f"PRAGMA {pragma}")
