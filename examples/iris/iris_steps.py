"""The steps of the Iris pipeline: plain Python functions that know nothing of Penstock.

A function gets the inputs of its step as keyword arguments and returns its outputs as a dictionary. A file comes in as
a `Path` and goes out as `{"path": …}`. Only the standard library is used, so that the example runs anywhere.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from math import dist
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("iris.csv")
MEASURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")


def split(*, rows: int, test_share: float, seed: int) -> dict[str, Any]:
    """Shuffle the data set and split it. The same seed always gives the same two tables."""
    with DATA.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    if not 10 <= rows <= len(table):
        raise ValueError(f"rows is {rows}: it must be from 10 to {len(table)}")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}: it must be between 0 and 1")
    random.Random(seed).shuffle(table)
    table = table[:rows]
    test_rows = max(1, round(len(table) * test_share))
    test_table, train_table = table[:test_rows], table[test_rows:]
    return {
        "train_table": _write_csv("train.csv", train_table),
        "test_table": _write_csv("test.csv", test_table),
        "train_rows": len(train_table),
        "test_rows": len(test_table),
    }


def train(*, k: int, train_table: Path, test_table: Path) -> dict[str, Any]:
    """Classify each test row by its `k` nearest neighbours among the training rows, and keep the model."""
    known = _read_csv(train_table)
    unknown = _read_csv(test_table)
    right = sum(_classify(measures, known, k) == species for measures, species in unknown)
    Path("model.json").write_text(json.dumps({"k": k, "rows": known}), encoding="utf-8")
    return {"accuracy": right / len(unknown), "model": {"path": "model.json"}}


def best(*, accuracies: list[float], models: list[Path]) -> dict[str, Any]:
    """Pick the most accurate model; of equally good ones the first.

    Both lists come from the fan-out, in the order of its items.
    """
    accuracy, model = max(zip(accuracies, models, strict=True), key=lambda pair: pair[0])
    best_k = json.loads(model.read_text(encoding="utf-8"))["k"]
    return {"best_k": best_k, "accuracy": accuracy, "model": {"path": model}}


def report(*, ks: list[int], accuracies: list[float], best_k: int, train_rows: int, test_rows: int) -> dict[str, Any]:
    """Write a page of Markdown for people."""
    lines = [
        "# Iris",
        "",
        f"Trained on {train_rows} flowers, tested on {test_rows}. Best: k = {best_k}.",
        "",
        "| k | accuracy |",
        "|---|---|",
        *(f"| {k} | {accuracy:.3f} |" for k, accuracy in zip(ks, accuracies, strict=True)),
        "",
    ]
    print("\n".join(lines))
    Path("report.md").write_text("\n".join(lines), encoding="utf-8")
    return {"report": {"path": "report.md"}}


def _classify(measures: list[float], known: list[tuple[list[float], str]], k: int) -> str:
    nearest = sorted(known, key=lambda row: dist(measures, row[0]))[:k]
    return Counter(species for _, species in nearest).most_common(1)[0][0]


def _read_csv(path: Path) -> list[tuple[list[float], str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [([float(row[name]) for name in MEASURES], row["species"]) for row in csv.DictReader(file)]


def _write_csv(name: str, rows: list[dict[str, str]]) -> dict[str, str]:
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*MEASURES, "species"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return {"path": name}
