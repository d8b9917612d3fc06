import gc
import sys
from types import ModuleType

import numpy as np
import pytest

from tercet.arm.sim.env import make_env
from tercet.errors import FailedError


def test_pictures_of_several_environments_are_drawn_in_their_own_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio", ModuleType("imageio"))  # Gymnasium needs it only for its window
    envs = [make_env(name, 1, num_threads=1) for name in ("Reacher-v5", "InvertedPendulum-v5", "lift")]
    try:
        before = [env.render(0, 64, 48) for env in envs]
    except FailedError as error:
        pytest.skip(str(error))
    closed = make_env("Reacher-v5", 1, num_threads=1)
    closed.render(0, 64, 48)
    closed.close()
    envs[1].render(0, 64, 48)
    del closed
    gc.collect()
    for env, picture in zip(envs[::-1], before[::-1], strict=True):
        np.testing.assert_array_equal(env.render(0, 64, 48), picture)
    for env in envs:
        env.close()
