"""The controller's ports on one machine: SQLite, a folder as object store, local processes or containers.

What must not live here: decisions about executions (the engine's) and anything that speaks to a cluster.
"""
