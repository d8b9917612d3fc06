"""A robot arm: the same three steps as for a language model; gymnasium and mujoco are imported here alone."""
