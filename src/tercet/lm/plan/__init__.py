"""Plans: memory and time of a run before anything is loaded, and the benchmark of one PPO step."""
