"""Everything that is measured on a cluster: latency on a real node, then rates and growth on fake ones."""

from __future__ import annotations

from . import burst, chain, live


def main() -> None:
    """Print the tables."""
    for bench in (chain, burst, live):
        bench.main()
