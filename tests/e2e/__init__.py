"""Tests on a real cluster, and what they stand on: `make e2e`."""
