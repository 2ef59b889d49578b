"""A real one-node Kubernetes from source for the end-to-end tests, as root on one Linux machine.

`python -m tests.e2e.cluster up` builds what is missing and starts it; `cluster.py` is the door for tests. Nothing in
this folder knows anything of Penstock, and none of it needs more than the standard library.
"""
