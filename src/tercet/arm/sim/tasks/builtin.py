"""The built-in tasks by name."""

from tercet.arm.sim.tasks.lift import Lift
from tercet.arm.sim.tasks.place import Place
from tercet.arm.sim.tasks.push import Push
from tercet.arm.sim.tasks.reach import Reach
from tercet.arm.sim.tasks.task import Task
from tercet.errors import InputError

TASKS: dict[str, Task] = {task.name: task for task in (Reach(), Lift(), Place(), Push())}


def find_task(name: str) -> Task:
    """Return the built-in task of this name. Raises InputError if there is none."""
    if name not in TASKS:
        raise InputError(f"task {name!r} is unknown; there are {', '.join(TASKS)}")
    return TASKS[name]
