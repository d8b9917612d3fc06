"""An environment of a user, as the text of its module: a point on a line that has to reach another."""

A_LINE = """
import gymnasium, numpy as np
from gymnasium.spaces import Box

class Line(gymnasium.Env):
    observation_space, action_space = Box(-9, 9, (2,), np.float32), Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.seen, {}

    def step(self, action):
        self.seen = self.seen + np.array([0.1 * action[0], 0], np.float32)
        away = abs(float(self.seen[0] - self.seen[1]))
        return self.seen, -away, away > 1.5, False, {"success": away < 0.2}
"""
