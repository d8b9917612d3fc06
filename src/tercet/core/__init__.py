"""The maths of PPO from feedback: pure functions of tensors, each formula once. Imports torch and jaxtyping alone."""
