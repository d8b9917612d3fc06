"""Step 3 on language: PPO and the algorithms of its family."""
