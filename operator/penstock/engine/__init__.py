"""Decisions: what an execution does next, from what is known and the time. Pure.

What lives here: the graph, expressions, wiring, retries, timeouts, fan-out, cache and limits. What must not: I/O, a
clock, randomness, the environment, kopf, Kubernetes, asyncio. These are passed in or done by the layers above.
"""
