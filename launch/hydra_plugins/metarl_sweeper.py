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
    """Runs whose configurations are proposed from the held-out returns of earlier ones, in batches.

    The same command resumes a search that was stopped or killed: its whole state is in ``search.journal`` of the
    sweep's directory. Runs that failed are not repeated; a run whose process was killed is repeated once.

    Args:
        space: domain of each key: a list to choose from, or ``low`` and ``high`` (whole numbers for a whole number;
            ``log: true`` for a logarithmic scale). Lists and intervals on the command line are searched, too; a key
            with one value there is not.
        num_trials: number of runs of the search.
        batch_size: runs proposed together, before the result of any of them is available; they run in parallel.
        sampler: ``tpe`` (tree-structured Parzen estimators) or ``random``.
        seed: seed of the proposals.
    """

    def __init__(self, space: dict[str, Any], num_trials: int, batch_size: int, sampler: str, seed: int):
        self.space, self.num_trials, self.batch_size = dict(space or {}), num_trials, batch_size
        self.sampler, self.seed = sampler, seed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from metarl.extras import require

        require("optuna", "hydra/sweeper=search")
        if "wait" in config.hydra.launcher:  # later proposals depend on earlier results
            with open_dict(config):
                config.hydra.launcher.wait = True
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from hydra_plugins.metarl_launcher import trust_typed

        from metarl.launching.proposals import Proposals
        from metarl.launching.search import Search, checked_space, run_proposals

        fixed, found = self._read(arguments)
        given = {override.lstrip("+~").partition("=")[0] for override in fixed}
        default = OmegaConf.to_container(OmegaConf.create(self.space), resolve=True)
        wanted = {key: values for key, values in default.items() if key not in given} | found
        space = checked_space(wanted)
        self._compose(
            [*fixed, *(f"{name}={domain.example}" for name, domain in space.items())]
        )  # unknown keys are refused before anything runs
        settings = {name: getattr(self, name) for name in ("num_trials", "batch_size", "sampler", "seed")}
        proposals = Proposals.composed(settings | {"space": wanted}, fixed, self._compose)
        trust_typed(base["config"] for base in proposals.bases)
        directory = Path(self.config.hydra.sweep.dir)
        search = Search(directory, space, **settings)
        if (changed := proposals.freeze(directory)) is not None:
            print(f"note: {changed}")
        print(run_proposals(search, self.launcher, Proposals.of(directory, typed=True)))
        return search.best

    def _read(self, arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
        """Overrides of every run, and the domains of the keys that are searched."""
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
