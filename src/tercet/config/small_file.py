"""Read small text files given by the user, in bounded time and memory."""

import stat
from pathlib import Path

MOST_BYTES = 1_000_000


def read_small_file(path: Path) -> str:
    """Return the text of a regular UTF-8 file, with \\n as line ends; raise ValueError with the reason if it cannot."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ValueError("is a folder")
        if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
            raise ValueError("is not a regular file")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    if len(content) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
