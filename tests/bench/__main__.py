"""`python -m tests.bench [decide|cli|local|cluster]…`: measure, and print what docs/benchmarks.md quotes.

Figures of one run on one machine; what matters are the ratios within it.
"""

from __future__ import annotations

import importlib
import sys

BENCHES = ("decide", "cli", "local")
ON_A_CLUSTER = ("cluster",)


def main() -> None:
    """Run the benches that are named, or all."""
    for name in sys.argv[1:] or BENCHES:
        if name not in (*BENCHES, *ON_A_CLUSTER):
            known = ", ".join((*BENCHES, *ON_A_CLUSTER))
            sys.exit(f"no bench {name!r}; there are: {known}")
        importlib.import_module(f"tests.bench.{name}").main()


main()
