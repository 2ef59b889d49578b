"""Adapter for Kubernetes: the controller's ports on an API server.

What lives here: the REST client and its credentials, leader election, kopf handlers, manifests of Jobs and Pods, and
what is read out of them. What must not: decisions about executions (the engine's), SQL, HTTP that other people call.
"""
