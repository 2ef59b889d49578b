"""`python -m tests.bench [NAME…]`: measure, and print what docs/benchmarks.md quotes.

Names: `decide`, `cli` and `local`, which are what runs without a name; `chain`, `burst` and `live` need a cluster,
`cluster` is all three of them; `files` needs an S3 server. Figures of one run on one machine; what matters are the
ratios within it.
"""

from __future__ import annotations

import importlib
import sys

BENCHES = ("decide", "cli", "local")
ON_A_CLUSTER = ("cluster", "chain", "burst", "live")
WITH_A_STORE = ("files",)


def main() -> None:
    """Run the benches that are named, or all."""
    for name in sys.argv[1:] or BENCHES:
        if name not in (*BENCHES, *ON_A_CLUSTER, *WITH_A_STORE):
            known = ", ".join((*BENCHES, *ON_A_CLUSTER, *WITH_A_STORE))
            sys.exit(f"no bench {name!r}; there are: {known}")
        importlib.import_module(f"tests.bench.{name}").main()


main()
