"""A run from start to finish: training, final evaluation with baselines, table and report."""

import logging
import math
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from metarl import parallel
from metarl.analysis.trial_recording import TrialRecording, to_json
from metarl.baselines.registry import baselines, bounds
from metarl.errors import MetarlError, RunDirectoryError, located
from metarl.evaluation import Evaluation, TaskSelection, evaluate
from metarl.periodic_evaluation import generalization_gaps
from metarl.progress import Phase
from metarl.runs.files import append_line
from metarl.runs.frozen import commit
from metarl.runs.reader import ACTIONS, check_evaluations
from metarl.runs.start import start_from
from metarl.runs.zoo import recorded
from metarl.system import Interrupted, StopRequest
from metarl.trainer import Trainer
from metarl.types import Agent, Decision, State, Timestep
from metarl.version import __version__

log = logging.getLogger(__name__)


def run(trainer: Trainer, config: dict, sweep: str | None = None, fresh: bool = False) -> None:
    """Train, evaluate and report; a finished run only shows its results again.

    Stops after the present iteration on a signal, or immediately in the final evaluation, ready to be resumed by
    the same command.

    Args:
        trainer: as built; it resumes the run in its directory.
        config: resolved, for the run directory and the loggers.
        sweep: name of the sweep this run belongs to.
        fresh: the name of the run directory is no choice of the user, see ``RunDirectory.open``.
    """
    summary = _enter(trainer, config, fresh)
    if not parallel.is_main():
        _train_worker(trainer, summary is not None)
        return
    directory = trainer.run_dir
    handler = _LogFile(directory.path / "run.log")
    logging.getLogger().addHandler(handler)
    try:
        directory.begin(config, trainer.progress.iteration)
        with StopRequest() as stop:
            finished = _finish(trainer, config, sweep, stop, summary)
            if not finished:
                log.info(
                    "stopped by signal %d; the same command with hydra.run.dir=%s resumes",
                    stop.signal,
                    directory.path,
                )
                stop.chain_previous_handler()
            if stop:
                raise SystemExit(0)  # also ends a sweep, which an ordinary return would not
    finally:
        logging.getLogger().removeHandler(handler)
        directory.close()


def _enter(trainer: Trainer, config: dict, fresh: bool) -> dict | None:
    """Lock the run directory and resume the run in it; returns the summary of a finished run.

    Of several processes the main one takes it, and the others follow: what one refuses, all refuse.
    """
    directory, error = trainer.run_dir, None
    if parallel.is_main():
        try:
            directory.open(config, fresh)
        except MetarlError as refusal:
            error = refusal
    error, directory.path = parallel.broadcast((error, directory.path))
    if error is not None:
        raise error
    try:
        trainer.resume()
        _start(trainer)
        return parallel.broadcast(_summary_of_finished(trainer) if parallel.is_main() else None)
    except BaseException:
        if parallel.is_main():
            directory.abandon()
        raise


def _start(trainer: Trainer) -> None:
    """Take the weights of another run, at the start of a run that asks for them; a resumed one has its own."""
    source, directory = trainer.plan.start_from, trainer.run_dir
    if source is None:
        return
    if trainer.progress.iteration:
        record = directory.start() if parallel.is_main() else None
        if parallel.is_main() and (record is None or record.get("source") != recorded(source)):
            log.warning("training.start_from=%s is not used: the run goes on from its own checkpoint", source)
        return
    record = start_from(trainer.algorithm, Path(source), trainer.plan.strict)
    if parallel.is_main():
        directory.write_start(record)


def _summary_of_finished(trainer: Trainer) -> dict | None:
    if not trainer.finished:
        return None
    try:
        summary = trainer.run_dir.summary()
        if summary is not None:
            check_evaluations(trainer.run_dir.path, summary)
        return summary
    except RunDirectoryError as error:
        log.warning("%s. It is made again now", error)
        return None


def _train_worker(trainer: Trainer, finished: bool) -> None:
    """Train in a process that is not the main one, which alone evaluates and reports."""
    if finished:
        return
    with StopRequest() as stop:
        if not trainer.train(stop):
            stop.chain_previous_handler()
            raise SystemExit(0)


def _finish(trainer: Trainer, config: dict, sweep: str | None, stop: StopRequest, summary: dict | None) -> bool:
    """Train and evaluate until the run is finished or stopped; returns whether it is finished.

    The summary is written last: where it is, recording, figures, report and loggers are complete. A run that was
    killed before repeats its final evaluation, which comes out the same.
    """
    directory = trainer.run_dir
    if summary is None:
        origin = provenance(trainer.env.device)  # at the start: files may change during the run
        directory.discard_summary()
        trainer.loggers.start(directory.path, config, sweep)
        log.info("%s", _start_line(trainer))
        try:
            if not trainer.train(stop):
                trainer.loggers.finish(None, {})
                return False
            with stop.interrupting():
                summary = final_summary(trainer, config, origin)
                _optional("pictures of a trial for the report", lambda: _record(trainer))
        except Interrupted:
            trainer.loggers.finish(None, {})
            return False
        except BaseException:
            trainer.loggers.finish(None, {})
            raise
        _show(trainer, summary, first=True)
        directory.write_summary(summary)
    else:
        _show(trainer, summary)
    return True


def _start_line(trainer: Trainer) -> str:
    """Run directory, device, number of weights and tasks per iteration."""
    env, weights = trainer.env, sum(parameter.numel() for parameter in trainer.algorithm.parameters())
    tasks = env.num_tasks * parallel.world_size()
    return f"{trainer.run_dir.path}: {env.device}, {weights:,} weights, {tasks:,} tasks per iteration"


def _optional(what: str, make: Callable[[], Any]) -> Any:
    """The result of ``make``, or None with a warning: a failing graphics library must not lose a run."""
    try:
        return make()
    except MetarlError as error:
        log.warning("no %s: %s", what, error)
        return None
    except Exception:
        log.warning("no %s", what, exc_info=True)
        return None


def final_summary(trainer: Trainer, config: dict, origin: dict[str, str]) -> dict:
    """Evaluation of the latest weights and of the baselines on ``final_num_tasks`` held-out tasks.

    Args:
        trainer: which has trained.
        config: resolved.
        origin: see ``provenance``.
    """
    log.info("final evaluation on %d held-out tasks", trainer.eval_plan.final_num_tasks)
    results = {name: _by_actions(trainer, name) for name in dict.fromkeys(("held_out", *trainer.eval_plan.sets))}
    gaps = generalization_gaps({name: found["sampled"] for name, found in results.items()})
    evaluation, *others = ({key: value.as_dict() for key, value in found.items()} for found in results.values())
    return {
        **{name: config["choices"][name] for name in ("env", "model", "algorithm")},
        "seed": int(config["seed"]),
        **vars(trainer.progress),
        "parameters": sum(parameter.numel() for parameter in trainer.algorithm.parameters()),
        **origin,
        "num_tasks": evaluation["sampled"]["num_tasks"],
        "evaluation_seed": trainer.final_seed,
        "evaluation": evaluation,
        "task_sets": dict(zip(list(results)[1:], others, strict=True)),
        "generalization_gap": {name: {"mean": gap, "standard_error": error} for name, (gap, error) in gaps.items()},
        **(_references(trainer) if trainer.eval_plan.baselines else {"baselines": {}, "bounds": {}}),
    }


def _by_actions(trainer: Trainer, task_set: str) -> dict[str, Evaluation]:
    """The final evaluation of the trained agent on one task set, with sampled and with greedy actions."""
    tasks = "" if task_set == "held_out" else f" on {task_set} tasks"
    return {
        actions: _final(trainer, f"{actions} actions{tasks}", trainer.algorithm, actions == "greedy", task_set)
        for actions in ACTIONS
    }


def _final(trainer: Trainer, name: str, agent: Agent, greedy: bool = False, task_set: str = "held_out") -> Evaluation:
    """The final evaluation of an agent."""
    log.info("final evaluation: %s", name)
    plan = trainer.eval_plan
    which: TaskSelection = {
        "num_tasks": plan.final_num_tasks,
        "seed": trainer.final_seed,
        "batch_size": plan.batch_size,
        "task_set": task_set,
    }
    batches = math.ceil(plan.final_num_tasks / min(plan.final_num_tasks, plan.batch_size))
    steps = batches * sum(agent.rollouts) * trainer.env.horizon  # or fewer, where episodes end early
    with located(f"final evaluation after iteration {trainer.progress.iteration}"), Phase(name, steps) as phase:
        return evaluate(Counted(agent, phase.step), trainer.make_env, greedy=greedy, **which)


class Counted:
    """An agent that acts as another one, and calls a function with every step of its lanes.

    Args:
        agent: the agent that acts.
        on_step: called before each of its actions.
    """

    def __init__(self, agent: Agent, on_step: Callable[[], None]):
        self.rollouts, self.initial_state, self.adapt = agent.rollouts, agent.initial_state, agent.adapt
        self._act, self._on_step = agent.act, on_step

    def act(
        self, timestep: Timestep, state: State, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, State]:
        """Actions of the agent."""
        self._on_step()
        return self._act(timestep, state, generator, greedy)


def _references(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Baselines and bounds, for trials with as many episodes as the agent has in all its rollouts."""
    length = sum(trainer.algorithm.rollouts)
    env = trainer.make_env(num_tasks=1, seed=trainer.final_seed, num_episodes=length)
    solved = {name: _final(trainer, f"baseline {name}", agent).as_dict() for name, agent in baselines(env).items()}
    log.info("final evaluation: exact bounds, where there are any")
    return {"baselines": solved, "bounds": bounds(env)}


def _record(trainer: Trainer) -> None:
    """Record one held-out trial for the report."""
    from metarl.analysis.video_recorder import record_final_trial

    log.info("recording a trial for the report")
    seed = trainer.final_seed
    recording = record_final_trial(trainer.algorithm, trainer.make_env(num_tasks=1, seed=seed), seed)
    trainer.run_dir.write_trial(to_json(recording), _picture(recording) if recording.frames else None)


def _picture(recording: TrialRecording) -> bytes | None:
    """Frames of a trial in one picture, in PNG format."""
    from metarl.analysis.video import strip, to_png

    image = strip(recording)
    return None if image is None else to_png(image)


def provenance(device: str | torch.device) -> dict[str, str]:
    """Provenance of a result: hardware, versions, commit and command."""
    found = commit()
    unknown = f"none, installed as metarl {__version__}"
    return {
        "hardware": _hardware(str(device)),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "commit": f"{found['commit']}-dirty" if found["dirty"] else found["commit"] or unknown,
        "command": " ".join(["python", *sys.argv] if sys.argv[0].endswith(".py") else sys.argv),
    }


def _hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _show(trainer: Trainer, summary: dict, first: bool = False) -> None:
    """Write the report and print the table; with ``first`` also log the summary and figures."""
    from metarl.analysis.figures import run_figures
    from metarl.analysis.report import write_page
    from metarl.analysis.runs import load_run
    from metarl.analysis.tables import final_table, format_table
    from metarl.analysis.task_notes import gaps, sentence

    path = trainer.run_dir.path
    run, report = replace(load_run(path), summary=summary), path / "report.html"
    if first:
        figures = (_optional("figures", lambda: run_figures(run)) or {}) if trainer.loggers.active else {}
        trainer.loggers.finish(summary, figures)
    _optional("report", lambda: write_page([run], report))
    print(format_table(final_table(summary), "text"))
    for name, gap in gaps(summary.get("generalization_gap")).items():
        print(f"{name}: {gap}")
    print(f"{sentence(summary['evaluation']['sampled'], run.selected_on)}; report: {report}")


class _LogFile(logging.Handler):
    """Handler that appends to ``run.log``; ignores a full disk, which ends the run with an error elsewhere."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            append_line(self.path, self.format(record))
