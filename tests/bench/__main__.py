"""`python -m tests.bench [NAME…]`: measure, and print what docs/benchmarks.md quotes.

Names: `decide`, `cli`, `local` and `endpoints`, which are what runs without a name; `chain`, `burst` and `live` need a
cluster, `cluster` is all three of them; `files` needs an S3 server, `history` Debian's PostgreSQL. Figures of one run
on one machine; what matters are the ratios within it.
"""

from __future__ import annotations

import importlib
import sys

BENCHES = ("decide", "cli", "local", "endpoints")
ON_A_CLUSTER = ("cluster", "chain", "burst", "live")
WITH_A_STORE = ("files",)
WITH_POSTGRES = ("history",)


def main() -> None:
    """Run the benches that are named, or all."""
    every = (*BENCHES, *ON_A_CLUSTER, *WITH_A_STORE, *WITH_POSTGRES)
    for name in sys.argv[1:] or BENCHES:
        if name not in every:
            known = ", ".join(every)
            sys.exit(f"no bench {name!r}; there are: {known}")
        importlib.import_module(f"tests.bench.{name}").main()


main()
