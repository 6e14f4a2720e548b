"""Searches: Optuna's proposals run as a sweep, poor runs are pruned, and a killed search goes on."""

import json
import signal
import time
from pathlib import Path

import pytest
import yaml
from helpers import config_of, read_rows, small_config, trainer_of
from processes import outcome, run_py

from metarl.configuration.build import build
from metarl.errors import ConfigError, RunDirectoryError
from metarl.experiment import run
from metarl.launching.search import Domain, Search, SearchLogger, checked_space
from metarl.runs.loggers import Loggers
from metarl.runs.sweep import Sweep, finished_summary

SPACE = {
    "algorithm.num_epochs": Domain(choices=("1", "2")),
    "algorithm.learning_rate": Domain(low=1e-4, high=1e-2, log=True),
}
TINY = (
    "experiment=search/policy_gradient",
    "env=bandit",
    "model.hidden_size=8",
    "training.total_steps=1_600",
    "meta_batch_size=16",
    "training.eval_every=2",
    "eval.num_tasks=10",
    "eval.final_num_tasks=10",
    "eval.baselines=false",
    "hydra.sweeper.num_trials=5",
    "hydra.sweeper.batch_size=2",
    "hydra.launcher.slots=2",
    "cluster=local_pool",
    "hydra.sweep.dir=found",
)


def search_in(directory: Path, num_trials: int = 4, batch_size: int = 4, sampler: str = "tpe") -> Search:
    return Search(directory, SPACE, num_trials, batch_size, sampler, seed=0)


def configurations(jobs) -> list[dict]:
    return [yaml.safe_load((job.directory / "config.yaml").read_text()) for job in jobs]


def told(directory: Path, number: int, scores: list[float], **options) -> list[bool]:
    """Answers of a search to the held-out returns of one of its runs."""
    logger = SearchLogger(**options)
    logger.start(directory / str(number), {}, None)
    return [logger.log({"eval/sampled/return_mean": score, "iteration": step}) for step, score in enumerate(scores, 1)]


@pytest.mark.parametrize("kind", ["link", "broken link", "folder"])
def test_a_journal_that_is_no_file_is_refused_and_nothing_is_written_through_it(kind, tmp_path):
    (tmp_path / "secret").write_text("kept")
    journal = tmp_path / "found" / "search.journal"
    journal.parent.mkdir()
    journal.mkdir() if kind == "folder" else journal.symlink_to(tmp_path / ("secret" if kind == "link" else "none"))
    with pytest.raises(RunDirectoryError, match=r"search\.journal is a link or no regular file, .*; remove it"):
        search_in(journal.parent)
    assert (tmp_path / "secret").read_text() == "kept" and not (tmp_path / "none").exists()


def test_a_run_below_the_median_of_those_before_is_pruned(tmp_path):
    search = search_in(tmp_path)
    assert search.next_round() == [0, 1, 2, 3]
    for number, scores in enumerate([[1, 2, 3], [2, 3, 4]]):
        assert told(tmp_path, number, scores, warm_up_runs=2) == [False] * 3
        search.tell(number, scores[-1])
    assert told(tmp_path, 2, [0.5], warm_up_runs=2) == [True]
    assert told(tmp_path, 2, [0.5], warm_up_runs=3) == [False]
    assert told(tmp_path, 2, [0.5], pruner="none") == [False]
    assert told(tmp_path, 3, [5, 1], warm_up_runs=2) == [False, False]  # its best so far is what counts


def test_successive_halving_keeps_the_best_third(tmp_path):
    search = search_in(tmp_path, num_trials=9, batch_size=9)
    search.next_round()
    assert not any(told(tmp_path, 0, [9.0] * 100, pruner="halving", warm_up_runs=1))
    search.tell(0, 9.0)  # how long a run is
    answers = [
        told(tmp_path, number, [float(9 - number)], pruner="halving", warm_up_runs=1)[0] for number in range(1, 9)
    ]
    assert answers == [False] + 7 * [True]


def test_a_run_that_is_pruned_is_finished_and_says_so(tmp_path):
    class Impatient:
        def start(self, *_): ...
        def log(self, row):
            return row["iteration"] == 3

        def finish(self, *_): ...

    config = small_config("env=bandit", "training.total_steps=1e6", "eval.final_num_tasks=5")
    trainer = build(config, tmp_path / "run")
    trainer.loggers = Loggers({"impatient": Impatient()})
    run(trainer, config)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["pruned"] and summary["iteration"] == 3
    again = trainer_of(config, tmp_path / "run")
    assert again.finished


def test_proposals_are_those_of_one_search_however_often_it_begins_anew(tmp_path):
    whole, parts = search_in(tmp_path / "whole", 6, 2, "random"), tmp_path / "parts"
    assert whole.next_round() == [0, 1]
    assert search_in(parts, 6, 2, "random").next_round() == [0, 1]
    again = search_in(parts, 6, 2, "random")
    assert again.next_round() == [0, 1]  # they have no end yet
    assert [again.overrides(number) for number in (0, 1)] == [whole.overrides(number) for number in (0, 1)]
    again.tell(0, 1.0)
    again.tell(1, None)
    third = search_in(parts, 6, 2, "random")
    assert third.next_round() == [2, 3]
    drawn = {tuple(third.overrides(number)) for number in range(4)}
    assert len(drawn) == 4  # a sampler that forgot how far it was would draw the same again


def test_a_search_that_was_killed_over_a_proposal_completes_it(tmp_path):
    search = search_in(tmp_path)
    search.study.ask()  # and nothing else is written
    again = search_in(tmp_path)
    assert again.next_round() == [0] and len(again.overrides(0)) == len(SPACE)


def test_a_search_goes_on_in_its_own_space_alone(tmp_path):
    search_in(tmp_path).next_round()
    other = SPACE | {"algorithm.num_epochs": Domain(choices=("1", "2", "3"))}
    for space in (other, {"algorithm.num_epochs": SPACE["algorithm.num_epochs"]}):
        with pytest.raises(ConfigError, match="holds a search of another space"):
            Search(tmp_path, space, 4, 4, "tpe", seed=0)


def test_a_run_that_vanishes_is_tried_once_more_and_one_that_failed_is_not(tmp_path):
    search = search_in(tmp_path, num_trials=4, batch_size=4)
    assert search.next_round() == [0, 1, 2, 3]
    search.tell(0, 1.0)
    search.lost(1)
    search.tell(2, None)
    assert search.next_round() == [1]  # no more than stands in a row
    search.lost(1)
    assert search.next_round() == [3]
    search.tell(3, 2.0)
    assert search.next_round() == []
    assert search.conclusion().startswith("4 runs, 0 pruned, 2 failed; the best is 3")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "nothing to search"),
        ({"seed": []}, "give a list, or low and high"),
        ({"seed": 3}, "give a list, or low and high"),
        ({"seed": {"low": 1}}, "give a list, or low and high"),
        ({"seed": {"low": None, "high": "b"}}, "low and high must be numbers"),
        ({"seed": {"low": 2, "high": 1}}, "low must be below high"),
        ({"seed": {"low": 0, "high": 1, "log": True}}, "above 0 on a logarithmic scale"),
    ],
)
def test_a_space_that_is_none_is_refused(space, message):
    with pytest.raises(ConfigError, match=message):
        checked_space(space)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra.sweeper.num_trials=0"], "hydra.sweeper.num_trials=0: must be a whole number above 0"),
        (["hydra.sweeper.sampler=grid"], "hydra.sweeper.sampler=grid: must be tpe or random"),
        (["+hydra.sweeper.space={model.nothing: [1, 2]}"], "model.nothing"),
        (["cluster=gpus", "hydra.launcher.gpus=[]", "~hydra.launcher.slots"], "no GPU found"),
        (["hydra.sweeper.space={algorithm.clip: 3}"], "hydra.sweeper.space.algorithm.clip=3: give a list"),
    ],
)
def test_bad_searches_are_refused_and_leave_nothing(tmp_path, overrides, message):
    code, _, err = outcome(run_py("-m", *TINY, *overrides, directory=tmp_path))
    assert code == 1 and message in err, err
    assert list(tmp_path.rglob("*")) == []


def test_values_are_written_as_overrides_say_them():
    space = checked_space({"a": [1, True, None, "word", 0.5, [1, 2]], "b": {"low": 1, "high": 8}})
    assert space["a"].choices == ("1", "true", "null", "word", "0.5", "[1, 2]")
    assert config_of(f"model.hidden_size={space['b'].low}")["model"]["hidden_size"] == 1


@pytest.mark.timeout(1200)
def test_a_search_whose_launcher_is_killed_ends_with_every_run_done_once(tmp_path):
    line = ("-m", *TINY, "model.layer_norm=true,false", "algorithm.clip=interval(0.1,0.3)", "algorithm.discount=0.7")
    process = run_py(*line, directory=tmp_path)
    sweep = tmp_path / "found"
    while not read_rows(sweep / "2" / "metrics.jsonl"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    outcome(process)
    before = [read_rows(sweep / str(number) / "metrics.jsonl") for number in range(2)]
    code, out, err = outcome(run_py(*line, directory=tmp_path))
    assert code == 0 and "5 runs" in out and "the best is" in out, err
    jobs = Sweep(sweep).jobs
    assert len(jobs) == 5 and all(finished_summary(job.directory) for job in jobs)
    assert [read_rows(sweep / str(number) / "metrics.jsonl") for number in range(2)] == before
    keys = {text.partition("=")[0] for text in jobs[0].overrides}
    assert all(config["algorithm"]["discount"] == 0.7 for config in configurations(jobs))  # given, so not searched
    assert {"model.layer_norm", "algorithm.clip", "algorithm.learning_rate"} <= keys
    assert len({job.overrides for job in jobs}) == 5
