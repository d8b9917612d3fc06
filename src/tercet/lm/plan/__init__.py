"""Plan memory and time of a run before anything is loaded, and benchmark one PPO step."""
