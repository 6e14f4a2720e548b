"""A run from start to finish: train, then the final evaluation beside the baselines, table and report."""

import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from metarl import parallel
from metarl.evaluation import evaluate
from metarl.preemption import StopRequest
from metarl.seeding import stream_seed
from metarl.trainer import Trainer

log = logging.getLogger(__name__)


def run(trainer: Trainer, config: dict, sweep: str | None = None) -> None:
    """Train, evaluate and report; a run that is finished already only shows its results again.

    Stops after the present iteration when asked by a signal, ready to be resumed by the same command.

    Args:
        trainer: as built, resumed where it had stopped.
        config: resolved, for the run directory and the loggers.
        sweep: name of the sweep this run belongs to.
    """
    if not parallel.is_main():
        _help(trainer)
        return
    directory = trainer.run_dir
    directory.open(config)
    handler = _log_to(directory.path / "run.log")
    try:
        with StopRequest() as stop:
            finished = _train(trainer, config, sweep, stop)
            if not finished:
                log.info(
                    "stopped by signal %d; the same command with hydra.run.dir=%s resumes",
                    stop.signal,
                    directory.path,
                )
                stop.pass_on()
                raise SystemExit(0)  # also ends a sweep, which an ordinary return would not
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
        directory.close()


def _help(trainer: Trainer) -> None:
    """Train along with the main process, which does all the rest; a finished run has nothing to train."""
    if trainer.finished and trainer.run_dir.summary() is not None:
        return
    with StopRequest() as stop:
        if not trainer.train(stop):
            stop.pass_on()
            raise SystemExit(0)


def _train(trainer: Trainer, config: dict, sweep: str | None, stop: StopRequest) -> bool:
    directory = trainer.run_dir
    directory.resume_metrics(trainer.progress.iteration)
    if not trainer.finished:
        directory.discard_summary()
    if directory.summary() is None:
        made_by = provenance(config)  # now: the repository may have moved on by the end
        trainer.loggers.start(directory.path, config, sweep)
        try:
            if not trainer.train(stop):
                trainer.loggers.finish(None, {})
                return False
            summary = final_summary(trainer, config, made_by)
        except BaseException:
            trainer.loggers.finish(None, {})
            raise
        directory.write_summary(summary)
        _film(trainer, summary["evaluation_seed"])
        trainer.loggers.finish(summary, _figures(directory.path) if trainer.loggers.active else {})
    _show(directory.path)
    return True


def final_summary(trainer: Trainer, config: dict, made_by: dict[str, str]) -> dict:
    """Latest weights on ``final_num_tasks`` held-out tasks, drawn afresh where they have no end, beside the baselines.

    Args:
        trainer: which has trained.
        config: resolved.
        made_by: see ``provenance``.
    """
    plan, settings = trainer.eval_plan, config
    seed = stream_seed(settings["seed"], "final_evaluation")
    log.info("final evaluation on %d held-out tasks", plan.final_num_tasks)

    def held_out(agent, greedy: bool = False) -> dict:
        return evaluate(
            agent,
            trainer.make_env,
            num_tasks=plan.final_num_tasks,
            seed=seed,
            greedy=greedy,
            tasks_at_once=plan.tasks_at_once,
        ).as_dict()

    # Solvers that play as many episodes as the agent, which may play several rollouts.
    length = sum(trainer.algorithm.rollouts)
    references = trainer.make_env(num_tasks=1, seed=seed, num_episodes=length) if plan.baselines else None
    evaluation = {"sampled": held_out(trainer.algorithm), "greedy": held_out(trainer.algorithm, greedy=True)}
    return {
        "env": config["choices"]["env"],
        "model": config["choices"]["model"],
        "algorithm": config["choices"]["algorithm"],
        "seed": config["seed"],
        **vars(trainer.progress),
        "parameters": sum(parameter.numel() for parameter in trainer.algorithm.parameters()),
        **made_by,
        "num_tasks": evaluation["sampled"]["num_tasks"],
        "evaluation_seed": seed,
        "evaluation": evaluation,
        "baselines": {name: held_out(agent) for name, agent in references.baselines().items()} if references else {},
        "bounds": references.bounds() if references else {},
    }


def _film(trainer: Trainer, seed: int) -> None:
    """One held-out trial to look at, where there is something to see."""
    from metarl.analysis.film import strip, to_json, to_png
    from metarl.analysis.filming import final_film

    try:
        film = final_film(trainer.algorithm, trainer.make_env(num_tasks=1, seed=seed), seed)
        if film is not None:
            image = strip(film)
            trainer.run_dir.write_trial(to_json(film), None if image is None else to_png(image))
    except Exception:  # whatever a graphics library may do, the results are there
        log.warning("no pictures of a trial for the report", exc_info=True)


def provenance(config: dict) -> dict[str, str]:
    """What made a result: hardware, versions, commit and command."""
    repository = Path(__file__).resolve().parent.parent
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=repository,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        revision = ""
    return {
        "hardware": _hardware(config["device"]),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "commit": revision or "unknown",
        "command": " ".join(["python", *sys.argv]),
    }


def _hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _figures(run_dir: Path) -> dict:
    from metarl.analysis.figures import run_figures
    from metarl.analysis.runs import load_run

    return run_figures(load_run(run_dir))


def _show(run_dir: Path) -> None:
    """Write the report, print the table."""
    from metarl.analysis.report import write_report
    from metarl.analysis.runs import load_run, require_finished
    from metarl.analysis.tables import final_table, format_table
    from metarl.analysis.task_notes import sentence

    run = load_run(run_dir)
    summary = require_finished(run)
    report = run_dir / "report.html"
    write_report([run_dir], report)
    print(format_table(final_table(summary), "text"))
    print(f"{sentence(summary['evaluation']['sampled'], run.selected_on)}; report: {report}")


def _log_to(path: Path) -> logging.Handler:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler
