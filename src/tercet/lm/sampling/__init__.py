"""Sampling: responses of a policy to prompts, token by token, and the checks of the sampler."""
