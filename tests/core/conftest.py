"""How hypothesis searches here: the same examples every time, and no deadline on a busy machine."""

from hypothesis import settings

settings.register_profile("core", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("core")
