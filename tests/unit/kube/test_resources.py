"""Paths of objects on an API server."""

from __future__ import annotations

import pytest

from penstock.kube.resources import EXECUTIONS, NAMESPACES, PODS, Resource


@pytest.mark.parametrize(
    ("resource", "options", "path"),
    [
        (PODS, {}, "/api/v1/pods"),
        (PODS, {"namespace": "a"}, "/api/v1/namespaces/a/pods"),
        (PODS, {"namespace": "a", "name": "p", "subresource": "log"}, "/api/v1/namespaces/a/pods/p/log"),
        (NAMESPACES, {"name": "a"}, "/api/v1/namespaces/a"),
        (EXECUTIONS, {"namespace": "a"}, "/apis/penstock.dev/v1alpha1/namespaces/a/executions"),
        (PODS, {"namespace": "a", "name": "../b?c#d"}, "/api/v1/namespaces/a/pods/..%2Fb%3Fc%23d"),
    ],
)
def test_a_path_says_where_an_object_is(resource: Resource, options: dict[str, str], path: str) -> None:
    assert resource.path(**options) == path


def test_a_namespace_where_there_can_be_none_is_refused() -> None:
    with pytest.raises(ValueError, match="Namespace objects live in no namespace, but 'a' was given"):
        NAMESPACES.path(namespace="a", name="b")


@pytest.mark.parametrize("namespace", [None, ""])
def test_a_name_without_its_namespace_is_refused(namespace: str | None) -> None:
    with pytest.raises(ValueError, match="Pod 'p': its namespace was not given"):
        PODS.path(namespace=namespace, name="p")


def test_manifests_name_group_and_version() -> None:
    assert (PODS.api_version, EXECUTIONS.api_version) == ("v1", "penstock.dev/v1alpha1")
