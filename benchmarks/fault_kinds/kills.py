"""Runs killed at random moments, resumed by the same command, and compared with undisturbed runs."""

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from fault_kinds.cases import Case, untidy
from fault_kinds.children import MOST_SECONDS, Child, call
from fault_kinds.runs import CONFIGURATIONS, difference, in_an_interpreter, train
from fault_kinds.seams import Moment, Seam, occurrences, record, recorded

PER_RUN = 5  # kills of one run before it may finish
LEAST_KILLS = 1


@dataclass(frozen=True)
class Undisturbed:
    """An undisturbed run, and the times at which it changed its files."""

    path: Path
    seams: list[Seam]
    seconds: float


def run(number: int, dice: Random, folder: Path, short: bool = False) -> Iterator[Case]:
    """Try ``number`` kills, distributed over the configurations."""
    names = list(CONFIGURATIONS)
    if short:
        names = names[:1]
    for index, name in enumerate(names):
        share = number * (index + 1) // len(names) - number * index // len(names)
        if share:
            yield from _of_configuration(name, share, dice, folder / f"kills{index}", short)


def _of_configuration(name: str, number: int, dice: Random, folder: Path, short: bool) -> Iterator[Case]:
    configuration = CONFIGURATIONS[name]
    whole, problem = _undisturbed(configuration, folder, short)
    if problem is not None:
        yield Case(f"{name}: undisturbed", problem)
        return
    done = attempt = 0
    while done < number and attempt < number + 20:
        attempt += 1
        moments, problem = _chain(configuration, folder / f"killed{attempt}", whole, dice, min(PER_RUN, number - done))
        done += len(moments)
        shown = ", ".join(map(describe, moments))
        for _ in moments[1:]:
            yield Case(f"{name}: {shown}")
        if moments or problem is not None:
            yield Case(f"{name}: {shown}", problem)


def _undisturbed(configuration: tuple[str, ...], folder: Path, short: bool) -> tuple[Undisturbed, str | None]:
    """Two undisturbed runs, one of them in a new interpreter; they must be equal."""
    watched, log = folder / "watched", folder / "seams.txt"
    outcome = call(train(configuration, watched), folder / "io", partial(_recorder, watched, log))
    seams = recorded(log)
    whole = Undisturbed(watched, seams, seams[-1].seconds if seams else 0.0)
    if (problem := untidy(outcome)) is not None or outcome.code:
        return whole, problem or outcome.last_line()
    if short:
        return whole, None
    alone = in_an_interpreter(train(configuration, folder / "alone"), folder / "io")
    if alone.code:
        return whole, f"in a new interpreter: {alone.last_line()}"
    return whole, difference(folder / "alone", watched)


def _recorder(run_dir: Path, log: Path) -> None:
    record(run_dir, log)


def _chain(
    configuration: tuple[str, ...], run_dir: Path, whole: Undisturbed, dice: Random, most: int
) -> tuple[list[Moment], str | None]:
    """Kill one run up to ``most`` times, then let it finish; returns the kills and the final problem."""
    command, folder, killed = train(configuration, run_dir), run_dir.with_suffix(".io"), []
    for moment in sorted_moments(whole, dice, most):
        child = Child(command, folder, partial(moment.prepare, run_dir))
        if child.moment(MOST_SECONDS if moment.seam is not None else moment.delay or 0.0) and moment.seam is not None:
            child.moment(moment.delay or 0.0)
        child.kill()
        outcome = child.wait()
        if outcome.code == -signal.SIGKILL:
            killed.append(moment)
        elif (problem := untidy(outcome)) is not None or outcome.code:
            return killed, f"resumed after {len(killed)} kills: {problem or outcome.last_line()}"
        else:
            break
    outcome = call(command, folder)
    problem = untidy(outcome) or (outcome.last_line() if outcome.code else difference(run_dir, whole.path))
    if problem is None:
        shutil.rmtree(run_dir)
    return killed, problem


def sorted_moments(whole: Undisturbed, dice: Random, number: int) -> list[Moment]:
    """Moments of all kinds, in the order of a run."""
    drawn = [_moment(whole, dice) for _ in range(number)]
    return [moment for _, moment in sorted(drawn, key=lambda pair: pair[0])]


def _moment(whole: Undisturbed, dice: Random) -> tuple[float, Moment]:
    """A random moment of the run, in seconds, and the way to kill at it."""
    kind = dice.choice(("time", "file", "checkpoint", "checkpoint", "final"))
    counts = occurrences(whole.seams)
    if kind == "time":
        seconds = dice.uniform(0, whole.seconds)
        return seconds, Moment(None, delay=seconds)
    if kind == "final":  # evaluation, video, summary, figures and report
        last = max((seam for seam in whole.seams if seam.name.startswith("rename 0")), key=lambda seam: seam.seconds)
        delay = dice.uniform(0, whole.seconds - last.seconds)
        return last.seconds + delay, Moment(last.name, delay=delay)
    choice = [seam for seam in whole.seams if kind == "file" or ".pt" in seam.name or seam.name.startswith("open 0")]
    seam = dice.choice(choice)
    delay = dice.choice((None, dice.uniform(0, 0.004)))
    return seam.seconds, Moment(seam.name, dice.randint(1, min(3, counts[seam.name])), delay)


def describe(moment: Moment) -> str:
    """Description of a moment."""
    if moment.seam is None:
        return f"after {moment.delay:.2f} s"
    if moment.delay is None:
        return f"before '{moment.seam}' {moment.occurrence}"
    return f"{1000 * moment.delay:.1f} ms into '{moment.seam}' {moment.occurrence}"
