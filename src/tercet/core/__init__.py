"""The maths of PPO from feedback. Each formula is one short, pure function; only torch and jaxtyping are imported."""
