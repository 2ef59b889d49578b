"""Penstock: pipelines of containers on Kubernetes, and the same manifests on a laptop.

This module holds the version and nothing else, so that importing any part of the package stays cheap.
"""

__version__ = "0.1.0"
