"""A robot arm: the same three steps as for a language model. Only this package imports Gymnasium and MuJoCo."""

from importlib.util import find_spec

from tercet.errors import InputError

_missing = [name for name in ("gymnasium", "imageio_ffmpeg", "mujoco", "PIL") if find_spec(name) is None]
if _missing:
    raise InputError(
        f'the robot arm needs packages that are not installed ({", ".join(_missing)}): pip install "tercet[arm]"'
    )
