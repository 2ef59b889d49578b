"""The three kinds (Pipeline, Deployment, Execution) as typed models, and how manifests are read.

What lives here: field names, types, bounds and descriptions; YAML reading; structural checks. What must not: anything
that decides or does (graph, expressions and wiring are the engine's).
"""
