"""Hydra's sweeper of metarl for searches: Optuna proposes the jobs, any launcher runs them.

Hydra loads this file at every start: nothing heavy is imported here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class SearchSweeper(Sweeper):
    """Runs whose configurations follow from how earlier ones did on held-out tasks, in rounds.

    The same command goes on with a search that was stopped or killed: all it knows is in ``search.journal`` of the
    sweep's directory. Runs that failed are not tried again; one that vanished (its process was killed) is, once.

    Args:
        space: what is searched: by key, a list to choose from, or ``low`` and ``high`` (whole numbers for a whole
            number; ``log: true`` for a logarithmic scale). Lists and intervals on the command line are searched, too;
            a key with one value there is not.
        num_trials: runs of the whole search.
        at_once: runs proposed in one round, before the results of any of them are known; as many as run side by side.
        sampler: ``tpe`` (tree-structured Parzen estimators) or ``random``.
        seed: of the proposals.
    """

    def __init__(self, space: dict[str, Any], num_trials: int, at_once: int, sampler: str, seed: int):
        self.space, self.num_trials, self.at_once = dict(space or {}), num_trials, at_once
        self.sampler, self.seed = sampler, seed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if "wait" in config.hydra.launcher:  # what is proposed next depends on how these end
            with open_dict(config):
                config.hydra.launcher.wait = True
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from hydra_plugins.metarl_launcher import trust_typed

        from metarl.launching.proposals import Proposals
        from metarl.launching.search import Search, checked_space, go_on

        fixed, found = self._read(arguments)
        given = {override.lstrip("+~").partition("=")[0] for override in fixed}
        default = OmegaConf.to_container(OmegaConf.create(self.space), resolve=True)
        wanted = {key: values for key, values in default.items() if key not in given} | found
        space = checked_space(wanted)
        self._compose(
            [*fixed, *(f"{name}={domain.example}" for name, domain in space.items())]
        )  # a key that is not there is said before anything runs
        settings = {name: getattr(self, name) for name in ("num_trials", "at_once", "sampler", "seed")}
        proposals = Proposals.composed(settings | {"space": wanted}, fixed, self._compose)
        trust_typed(base["config"] for base in proposals.bases)
        directory = Path(self.config.hydra.sweep.dir)
        search = Search(directory, space, **settings)
        if (changed := proposals.freeze(directory)) is not None:
            print(f"note: {changed}")
        print(go_on(search, self.launcher, Proposals.of(directory, typed=True)))
        return search.best

    def _read(self, arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
        """Overrides that hold for every run, and those that are searched."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        fixed, found = [], {}
        for override in parser.parse_overrides(arguments):
            if not override.is_sweep_override():
                fixed.append(override.input_line)
            elif override.is_interval_sweep():
                interval = override.value()
                found[override.get_key_element()] = {
                    "low": interval.start,
                    "high": interval.end,
                    "log": "log" in interval.tags,
                }
            else:
                found[override.get_key_element()] = list(override.sweep_iterator())
        return fixed, found

    def _compose(self, overrides: list[str]) -> DictConfig:
        return self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
