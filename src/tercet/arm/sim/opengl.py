"""The OpenGL contexts that MuJoCo draws in.

A thread has one current context, to which every OpenGL call goes. Other code, as Gymnasium's MuJoCo environments, makes
its own context current once and relies on it later. If ours stayed current, each would draw into the other's memory,
and MuJoCo would end the process where none is current.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled modules come without types)

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import mujoco

_CHOICE = sys.modules[
    mujoco.Renderer.__module__
].gl_context  # the module from which Renderer takes its context, in every release


def choose_backend() -> None:
    """Draw with the backend that `MUJOCO_GL` names, and with EGL if it names none and there is no screen.

    MuJoCo reads the variable when it is imported and Gymnasium when it first draws. Both must use the same backend.
    """
    if sys.platform != "linux":  # elsewhere there is one backend, which needs no choice
        return
    if not os.environ.get("MUJOCO_GL") and not os.environ.get("DISPLAY"):
        os.environ["MUJOCO_GL"] = "egl"
    name = os.environ.get("MUJOCO_GL", "").lower()
    if name in ("egl", "glfw", "osmesa"):
        _CHOICE.GLContext = import_module(f"mujoco.{name}").GLContext


def try_context(width: int, height: int) -> None:
    """Open and free a context. Raise the backend's exception if it cannot."""
    # a partly created context would print another error when it is deleted
    _CHOICE.GLContext._context = None
    context = _CHOICE.GLContext(width, height)
    if not context._context:  # GLFW only warns, and MuJoCo then ends the process at the second attempt
        raise RuntimeError("no OpenGL context could be created")
    context.free()


@contextmanager
def current_context_kept() -> Iterator[None]:
    """Restore the current context of this thread at the end of the block."""
    restore = {"mujoco.egl": _keep_egl, "mujoco.glfw": _keep_glfw}.get(_CHOICE.GLContext.__module__)
    if restore is None:
        yield
        return
    with restore():
        yield


@contextmanager
def _keep_egl() -> Iterator[None]:
    from mujoco import egl
    from OpenGL import EGL

    context, display = EGL.eglGetCurrentContext(), EGL.eglGetCurrentDisplay()
    surfaces = EGL.eglGetCurrentSurface(EGL.EGL_DRAW), EGL.eglGetCurrentSurface(EGL.EGL_READ)
    try:
        yield
    finally:
        if context:
            EGL.eglMakeCurrent(display, *surfaces, context)
        elif egl.EGL_DISPLAY:
            EGL.eglMakeCurrent(egl.EGL_DISPLAY, EGL.EGL_NO_SURFACE, EGL.EGL_NO_SURFACE, EGL.EGL_NO_CONTEXT)


@contextmanager
def _keep_glfw() -> Iterator[None]:
    import glfw

    glfw.init()
    window = glfw.get_current_context()
    try:
        yield
    finally:
        glfw.make_context_current(window)
