"""Folders of recordings and checkpoints, by a path or by a hub id, which is downloaded."""

import re
from pathlib import Path
from typing import Literal

from tercet.errors import InputError, first_line


def local_folder(source: str, *, kind: Literal["dataset", "model"]) -> Path:
    """Return the folder of a path or a hub id such as NAME/REPOSITORY, which is downloaded unless it is in the cache.

    A path is returned as it is. InputError if there is neither such a folder nor such an id.
    """
    if Path(source).exists() or Path(source).suffix == ".npz" or not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        return Path(source)
    from huggingface_hub import snapshot_download  # slow to import, and only needed here

    try:
        return Path(snapshot_download(source, repo_type=kind))
    except Exception as error:  # the library's own errors, and those of the network below it
        raise InputError(
            f"{source}: no such folder, and not a hub id that can be read ({first_line(error)})"
        ) from error
