"""`python -m tests.bench [decide|cli|local]…`: measure, and print what docs/benchmarks.md quotes.

Figures of one run on one machine; what matters are the ratios within it.
"""

from __future__ import annotations

import importlib
import sys

BENCHES = ("decide", "cli", "local")


def main() -> None:
    """Run the benches that are named, or all."""
    for name in sys.argv[1:] or BENCHES:
        if name not in BENCHES:
            sys.exit(f"no bench {name!r}; there are: {', '.join(BENCHES)}")
        importlib.import_module(f"tests.bench.{name}").main()


main()
