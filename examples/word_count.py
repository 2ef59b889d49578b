"""The functions of `python-function.yaml`: inputs come as keyword arguments, outputs go as a dictionary."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any


def write(*, lines: list[str]) -> dict[str, Any]:
    """Write the lines to a file. The path may be anywhere that the function may write."""
    Path("text.txt").write_text("\n".join(lines), encoding="utf-8")
    return {"text": {"path": "text.txt"}}


def count(*, text: Path, longer_than: int = 0) -> dict[str, Any]:
    """Count the words of a file. A file input is a `Path`; an input that is not bound keeps its Python default."""
    words = [word for word in text.read_text(encoding="utf-8").split() if len(word) > longer_than]
    return {"total": len(words), "words": dict(Counter(words)), "empty": not words}


def check(*, total: int, words: dict[str, int], empty: bool) -> None:
    """Fail if what arrived is not what `count` gave. A function without outputs may return nothing."""
    if (total, words, empty) != (4, {"to": 2, "be": 2}, False):
        raise ValueError(f"unexpected: total={total} words={words} empty={empty}")
