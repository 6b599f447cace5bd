from __future__ import annotations

import os

import pytest

from prism_ssl.utils.ray_cluster.stderr_filter import stderr_without


def _told() -> None:
    with stderr_without("log level"):
        os.write(2, b"[I 1] logging.cc:303: Set ray log level to 3\nthe raylet died\nand so did the rest")
        raise ValueError("told")


def test_only_the_lines_with_the_words_are_left_out_also_when_the_block_raises(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ValueError, match="told"):
        _told()
    os.write(2, b"\nafter\n")
    assert capfd.readouterr().err == "the raylet died\nand so did the rest\nafter\n"
