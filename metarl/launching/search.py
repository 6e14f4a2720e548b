"""Searches of configurations with Optuna (Akiba et al. 2019): proposals of runs, and pruning of poor ones.

A search is a sweep whose jobs are Optuna's trials, by number. Its whole state is in ``search.journal``: proposals,
held-out returns during training, and outcomes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from metarl.errors import ConfigError, RunDirectoryError
from metarl.launching.pool import died
from metarl.launching.proposals import SEARCH, Proposals
from metarl.runs.frozen import path_of
from metarl.runs.sweep import finished_summary
from metarl.system import StopRequest

JOURNAL = "search.journal"
NAME = "search"
LOST = "vanished"  # attribute of a trial whose process ended without a result or an error
SCORE = "eval/sampled/return_mean"  # metric of the evaluations during training and of the final one

optuna.logging.set_verbosity(optuna.logging.ERROR)
optuna.logging.disable_default_handler()


@dataclass(frozen=True)
class Domain:
    """Allowed values of one key: a list, or the interval from ``low`` to ``high``."""

    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @property
    def example(self) -> Any:
        """One allowed value."""
        return self.choices[0] if self.choices else self.low

    @property
    def distribution(self) -> BaseDistribution:
        """Optuna's distribution over the domain."""
        if self.choices:
            return CategoricalDistribution(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def suggest(self, trial: Trial, key: str) -> Any:
        """The value that Optuna proposes for a trial."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(key, choices)
            case IntDistribution(low=low, high=high, log=log):
                return trial.suggest_int(key, low, high, log=log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)


def checked_space(space: Mapping[str, Any]) -> dict[str, Domain]:
    """Domains of the keys, from lists and bounds.

    Raises:
        ConfigError: the space is empty, or a domain is neither a list nor an interval.
    """
    if not space:
        raise ConfigError(
            "hydra.sweeper.space={}: nothing to search; use experiment=search/..., or lists on the command line"
        )
    domains = {}
    for key, given in space.items():
        where = f"hydra.sweeper.space.{key}={given}"
        if isinstance(given, Sequence) and not isinstance(given, str) and given:
            domains[key] = Domain(tuple(_text(value) for value in given))
        elif isinstance(given, Mapping) and {"low", "high"} <= set(given) <= {"low", "high", "log"}:
            low, high, log = given["low"], given["high"], given.get("log", False)
            if not all(isinstance(end, int | float) for end in (low, high)) or not isinstance(log, bool):
                raise ConfigError(f"{where}: low and high must be numbers, and log true or false")
            if not low < high or (log and low <= 0):
                raise ConfigError(f"{where}: low must be below high, and above 0 on a logarithmic scale")
            domains[key] = Domain(low=low, high=high, log=log)
        else:
            raise ConfigError(f"{where}: give a list, or low and high (and log)")
    return domains


def _text(value: Any) -> str:
    """A value in the syntax of an override on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


class Search:
    """A search in a sweep's directory, new or resumed.

    Args:
        directory: the sweep's directory.
        space: domain of each key.
        num_trials, batch_size, sampler, seed: see ``SearchSweeper``.

    Raises:
        ConfigError: a count or the sampler is not allowed, or the directory cannot be written.
    """

    def __init__(
        self, directory: Path, space: dict[str, Domain], num_trials: int, batch_size: int, sampler: str, seed: int
    ):
        for name, value in (("num_trials", num_trials), ("batch_size", batch_size)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"hydra.sweeper.{name}={value}: must be a whole number above 0")
        if sampler not in ("tpe", "random"):
            raise ConfigError(f"hydra.sweeper.sampler={sampler}: must be tpe or random")
        self.directory, self.space, self.num_trials, self.batch_size = directory, space, num_trials, batch_size
        try:
            directory.mkdir(parents=True, exist_ok=True)
            storage = _storage(directory)
        except OSError as error:
            raise ConfigError(f"hydra.sweep.dir={directory}: cannot be written ({error.strerror})") from None
        self.study = optuna.create_study(storage=storage, study_name=NAME, direction="maximize", load_if_exists=True)
        self._check_space()
        # A sampler with the same seed would repeat its first proposals after a restart.
        seed += len(self.study.trials)
        samplers = {"tpe": lambda: optuna.samplers.TPESampler(seed=seed, constant_liar=True)}
        self.study.sampler = samplers.get(sampler, lambda: optuna.samplers.RandomSampler(seed=seed))()

    def next_round(self) -> list[int]:
        """Consecutive numbers of the trials to run now: unfinished ones, otherwise new ones."""
        trials = self.study.get_trials(deepcopy=False)
        unended = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
        if unended:
            block = [number for place, number in enumerate(unended) if number == unended[0] + place]
            return [self._complete(Trial(self.study, trials[number]._trial_id)) for number in block]
        count = min(self.batch_size, self.num_trials - len(trials))
        return [self._complete(self.study.ask()) for _ in range(count)]

    def _complete(self, trial: Trial) -> int:
        """Propose values for all keys of a trial without one; a killed search may have proposed some."""
        for key, domain in self.space.items():
            domain.suggest(trial, key)
        return trial.number

    def overrides(self, number: int) -> list[str]:
        """Overrides that a trial proposes."""
        return [f"{key}={value}" for key, value in self._trial(number).params.items()]

    def tell(self, number: int, value: float | None) -> None:
        """Record the outcome of a trial: its held-out return, or None if it failed."""
        if self._trial(number).state.is_finished():
            return
        summary = finished_summary(self.directory / str(number))
        if value is None:
            self.study.tell(number, state=TrialState.FAIL)
        elif summary is not None and summary["pruned"]:
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, value)

    def lost(self, number: int) -> None:
        """Record that a run ended with neither result nor error: it is repeated once, then counted as failed."""
        found = self._trial(number)
        if LOST in found.user_attrs:
            self.tell(number, None)
        else:
            Trial(self.study, found._trial_id).set_user_attr(LOST, True)

    def _check_space(self) -> None:
        """Refuse to resume trials of another search space."""
        wanted = {key: domain.distribution for key, domain in self.space.items()}
        for trial in self.study.get_trials(deepcopy=False):
            if any(wanted.get(key) != distribution for key, distribution in trial.distributions.items()):
                raise ConfigError(
                    f"hydra.sweep.dir={self.directory}: holds a search of another space; choose another directory"
                )

    def _trial(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    @property
    def best(self) -> float | None:
        """The best held-out return."""
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max((trial.value for trial in complete if trial.value is not None), default=None)

    def conclusion(self) -> str:
        """Summary of the search in one sentence."""
        states = [trial.state for trial in self.study.get_trials(deepcopy=False)]
        counts = f"{len(states)} runs, {states.count(TrialState.PRUNED)} pruned, {states.count(TrialState.FAIL)} failed"
        if self.best is None:
            return f"{counts}; none was finished"
        best = self.study.best_trial
        return f"{counts}; the best is {best.number} (return {best.value:.4g}): {' '.join(self.overrides(best.number))}"


def run_proposals(search: Search, launcher: Any, proposals: Proposals) -> str:
    """Run proposals, batch by batch, until the search ends or is stopped; returns its conclusion."""
    with StopRequest() as stop:
        while not stop and (numbers := search.next_round()):
            proposed = [search.overrides(number) for number in numbers]
            configs = {n: proposals.config(given) for n, given in zip(numbers, proposed, strict=True)}
            overrides = [[*proposals.fixed, *given] for given in proposed]
            for status in launcher.launch_resolved(overrides, numbers[0], configs):
                number = status.job.number
                if status.state == "failed" and not died(status):
                    search.tell(number, None)
                elif status.final_return is not None:
                    search.tell(number, status.final_return)
                elif not stop:
                    search.lost(number)
    return search.conclusion() + ("; stopped; repeat the command to resume" if stop else "")


def resume(sweep: Path, launcher: Any) -> str:
    """Resume a search from the files in its directory; returns its conclusion.

    Raises:
        RunDirectoryError: the directory holds no search, or a damaged one.
        ConfigError: settings of the search that are not allowed.
    """
    proposals = Proposals.of(sweep)
    if hasattr(launcher, "wait"):
        launcher.wait = True  # later proposals depend on earlier results
    try:
        search = Search(sweep, **proposals.settings | {"space": checked_space(proposals.settings["space"])})
    except TypeError:
        raise RunDirectoryError(f"{path_of(sweep, SEARCH)} is damaged; start the search again elsewhere") from None
    return run_proposals(search, launcher, proposals)


class SearchLogger:
    """Reports the held-out returns of a run to its search during training, and prunes the run if they are poor.

    Args:
        pruner: ``median`` prunes a run below the median of earlier runs at the same step; ``halving`` keeps the best
            third, and after three times as many steps the best third of these (successive halving); ``none`` prunes
            nothing.
        warm_up_runs: complete runs before pruning starts (Optuna's ``n_startup_trials``).
    """

    def __init__(self, pruner: Literal["median", "halving", "none"] = "median", warm_up_runs: int = 5):
        self.warm_up_runs = warm_up_runs
        self.pruner: optuna.pruners.BasePruner
        if pruner == "median":
            self.pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
        elif pruner == "halving":
            self.pruner = optuna.pruners.SuccessiveHalvingPruner(reduction_factor=3)
        else:
            self.pruner = optuna.pruners.NopPruner()

    def start(self, run_dir: Path, config: dict, group: str | None) -> None:
        if not (run_dir.parent / JOURNAL).exists():
            raise ConfigError(f"{run_dir} is not a run of a search")
        study = optuna.load_study(study_name=NAME, storage=_storage(run_dir.parent), pruner=self.pruner)
        number = int(run_dir.name)
        self.trial = Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)

    def log(self, row: dict[str, Any]) -> bool:
        if SCORE not in row or not row["iteration"]:  # an untrained agent says nothing about its settings
            return False
        self.trial.report(row[SCORE], row["iteration"])  # steps of runs differ where their episodes do
        ended = self.trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return len(ended) >= self.warm_up_runs and self.trial.should_prune()

    def finish(self, summary: dict | None, figures: dict[str, Any]) -> None:
        """Do nothing: the search reads the summary from the run directory."""


def _storage(directory: Path) -> JournalStorage:
    path = directory / JOURNAL
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise RunDirectoryError(f"{path} is a link or no regular file, which metarl does not follow; remove it")
    return JournalStorage(JournalFileBackend(str(directory / JOURNAL)))
