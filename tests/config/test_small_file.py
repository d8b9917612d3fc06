"""A small text file is read; anything else is refused without waiting for it."""

import os
from pathlib import Path

import pytest

from tercet.config.small_file import MOST_BYTES, read_small_file


def test_text_with_a_byte_order_mark_and_any_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes("\ufeffé\r\nb\rc\n".encode())
    assert read_small_file(file) == "é\nb\nc\n"


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"a" * (MOST_BYTES + 1))
    (tmp_path / "utf16").write_bytes("a".encode("utf-16"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {
        ".": "is a folder",
        "large": "is larger than 1000000 bytes",
        "utf16": r"not UTF-8 text \(byte 0\)",
        "loop": "cannot be read: Too many levels",
        "pipe": "is not a regular file",  # reading it would wait for ever
        "nowhere": "cannot be read: No such file",
        "a" * 300: "cannot be read: File name too long",
        "a\0b": "null byte",
        "\ud800": "surrogates not allowed",
    }.items():
        with pytest.raises(ValueError, match=reason):
            read_small_file(tmp_path / name)
