"""Plans of a run: its length, and when and on which tasks it is evaluated."""

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from metarl.errors import ConfigError
from metarl.runs.values import set_names

Unit = Literal["iterations", "steps", "per run"]
SCHEDULE = re.compile(r"(\d[\d_]{0,17}) *(iterations|steps|per run)")


@dataclass(frozen=True)
class Schedule:
    """Times of the evaluations during training: every ``number`` iterations or steps, or ``number`` in a run."""

    number: int
    unit: Unit = "iterations"

    @property
    def is_off(self) -> bool:
        """Whether there is no evaluation during training."""
        return self.number == 0

    def is_due(self, iteration: int, steps_before: int, steps: int, total_steps: int) -> bool:
        """Whether an evaluation follows an iteration.

        Args:
            iteration: number of the iteration, from 1.
            steps_before: environment steps of the run before it.
            steps: environment steps after it.
            total_steps: environment steps of the whole run; the last iteration may pass them.
        """
        if self.is_off:
            return False
        if self.unit == "iterations":
            return iteration % self.number == 0
        if self.unit == "steps":
            return steps // self.number > steps_before // self.number
        before, after = (min(number, total_steps) * self.number // total_steps for number in (steps_before, steps))
        return after > before


def schedule(value: int | str, key: str = "training.eval_every") -> Schedule:
    """The schedule that a number of iterations, or a number with its unit, stands for.

    Raises:
        ConfigError: it is of another form.
    """
    if isinstance(value, int):
        return Schedule(value)
    if (found := SCHEDULE.fullmatch(value.strip())) is None:
        raise ConfigError(
            f"{key}={value!r}: must be a number of iterations such as 50, '100000 steps', or '10 per run' "
            "(10 evaluations in a run of any length); 0: none"
        )
    return Schedule(int(found[1].replace("_", "")), found[2])  # type: ignore[arg-type]


@dataclass(frozen=True)
class TrainingPlan:
    """Length of the training, and intervals between evaluations and between checkpoints.

    Args:
        total_steps: environment steps, support included; the last iteration may pass it.
        eval_every: iterations between evaluations; or with a unit, ``100_000 steps``, or ``10 per run``, which a run
            of any length has. One more precedes the first iteration. 0 evaluates only at the end.
        checkpoint_every: iterations between checkpoints.
        keep_checkpoints: number of latest checkpoints to keep.
        on_nonfinite: reaction to a number that is NaN or infinite: ``stop`` ends the run with the last good checkpoint;
            ``skip`` drops the update, counts it in ``train/skipped_updates``, and costs a copy of the training state.
        max_skipped: maximum number of consecutive dropped updates; one more ends the run.
        start_from: run directory, checkpoint, exported file or ``zoo:NAME`` to start from; null: none.
        strict: refuse ``start_from`` where tensors differ in name or shape; false takes those that fit.

    Raises:
        ConfigError: ``eval_every`` is of another form.
    """

    total_steps: PositiveInt
    eval_every: NonNegativeInt | str
    checkpoint_every: PositiveInt
    keep_checkpoints: PositiveInt
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped: PositiveInt = 10
    start_from: str | None = None
    strict: bool = True

    def __post_init__(self) -> None:
        schedule(self.eval_every)

    @property
    def evaluations(self) -> Schedule:
        """Times of the evaluations during training."""
        return schedule(self.eval_every)


@dataclass(frozen=True)
class EvaluationPlan:
    """Options of evaluations.

    Args:
        num_tasks: tasks of an evaluation during training.
        final_num_tasks: held-out tasks of the final evaluation, other tasks unless the task set is finite.
        batch_size: tasks evaluated in parallel; affects memory and speed.
        baselines: evaluate the environment's classical baselines at the end, too.
        task_sets: task sets of the evaluations during training. The first selects ``best.pt``: if held-out tasks are a
            fixed set, ``train`` there keeps them out of that selection. With ``train`` and another set, the difference
            of their returns is logged. The final evaluation plays held-out tasks, and these sets.

    Raises:
        ConfigError: no set is named, or one twice.
    """

    num_tasks: PositiveInt
    final_num_tasks: PositiveInt
    batch_size: PositiveInt
    baselines: bool
    task_sets: str | list[str] = "held_out"

    def __post_init__(self) -> None:
        try:
            set_names(self.task_sets)
        except ValueError:
            raise ConfigError(
                f"eval.task_sets={self.task_sets}: name at least one set, and each once, such as [train,held_out]"
            ) from None

    @property
    def sets(self) -> list[str]:
        """Names of the task sets; the first selects ``best.pt``."""
        return set_names(self.task_sets)
