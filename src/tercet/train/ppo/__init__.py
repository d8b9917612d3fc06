"""Proximal policy optimisation (Schulman et al. 2017) and its relatives, for language models and arms."""
