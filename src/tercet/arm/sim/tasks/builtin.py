"""The built-in tasks by name, and tasks of the user."""

from tercet.arm.sim.tasks.lift import Lift
from tercet.arm.sim.tasks.lift_two import LiftTwo
from tercet.arm.sim.tasks.own import own_task
from tercet.arm.sim.tasks.place import Place
from tercet.arm.sim.tasks.push import Push
from tercet.arm.sim.tasks.reach import Reach
from tercet.arm.sim.tasks.task import Task
from tercet.errors import InputError

TASKS: dict[str, Task] = {task.name: task for task in (Reach(), Lift(), Place(), Push(), LiftTwo())}
_OWN = "and module:class for a class of yours, derived from tercet.arm.sim.tasks.task.Task"
_ON_AN_ARM = [name for name, task in TASKS.items() if not task.instructions]


def task_of(env: str) -> Task | None:
    """Return the task of the built-in arm that `env` names, ours or the user's, or None for another environment."""
    return TASKS.get(env) or own_task(env)


def find_task(name: str) -> Task:
    """Return the task of this name. Raises InputError if there is none."""
    task = task_of(name)
    if task is None:
        raise InputError(f"task {name!r} is unknown; there are {', '.join(TASKS)}, {_OWN}")
    return task


def arm_task(env: str) -> Task:
    """Return the task for which a policy was trained. Raises InputError if it is none that an arm can be given."""
    task = task_of(env)
    if task is None:
        raise InputError(
            f"env={env}: a policy for this environment cannot run on an arm, which does not give its observations; "
            f"the tasks of an arm are {', '.join(_ON_AN_ARM)}, {_OWN} (docs/arm-environment.md)"
        )
    check_on_an_arm(task)
    return task


def check_on_an_arm(task: Task) -> None:
    """Raise InputError for a task that is only simulated."""
    if task.instructions:
        raise InputError(
            f"env={task.name}: only in simulation, since a robot finds one cube and is told no sentence; on an arm, "
            "use a task with one cube, such as lift"
        )
