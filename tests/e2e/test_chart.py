"""What the chart makes of values, before any cluster sees it: permissions, security, selectors, settings, refusals."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.kube.settings import from_environment
from penstock.storage.settings import from_environment as store_settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "penstock"
IMAGE = "image.repository=registry.example/penstock"
NAMESPACED = ("--set", "namespaces={team-a,team-b}")
EVERYTHING = (
    "--set=metrics.serviceMonitor.enabled=true,metrics.serviceMonitor.labels.release=prometheus",
    "--set=networkPolicy.from[0].namespaceSelector.matchLabels.name=monitoring",
    "--set=networkPolicy.apiServer.cidrs={10.0.0.1/32}",
    "--set=image.digest=sha256:" + "a" * 64 + ",image.pullSecrets[0].name=pull,priorityClassName=high",
    "--set=podLabels.team=data,podAnnotations.note=x,commonLabels.cost-center=x,serviceAccount.annotations.note=x,nodeSelector.disk=ssd",
    "--set=topologySpreadConstraints[0].topologyKey=zone,topologySpreadConstraints[0].maxSkew=2",
    "--set=tolerations[0].key=batch,extraEnv[0].name=TZ,extraEnv[0].value=UTC",
    "--set=store.url=s3://bucket/prefix,store.endpoint=http://minio.storage:9000,store.credentialsSecret=minio",
)
LITTLE = ("--set=networkPolicy.enabled=false,podDisruptionBudget.enabled=false,rbac.userRoles=false,replicas=1",)
OPENSHIFT = ("--set", "runAsUser=null", "--set", "runAsGroup=null")
EMBEDDED = ("--set=store.embedded.enabled=true,store.embedded.storageClass=fast",)
VARIANTS = {
    "embedded": EMBEDDED,
    "defaults": (),
    "namespaced": NAMESPACED,
    "everything": EVERYTHING,
    "namespaced with everything": NAMESPACED + EVERYTHING,
    "little": LITTLE,
    "openshift": OPENSHIFT,
}
every_variant = pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS.keys())

Object = dict[str, Any]

PERMISSIONS = {
    ("penstock.dev", "pipelines"): "get list watch",
    ("penstock.dev", "deployments"): "get list watch",
    ("penstock.dev", "executions"): "create delete get list patch watch",
    ("penstock.dev", "pipelines/status"): "patch update",
    ("penstock.dev", "deployments/status"): "patch update",
    ("penstock.dev", "executions/status"): "patch update",
    ("batch", "jobs"): "create delete get list watch",
    ("batch", "jobs/status"): "patch update",
    ("batch", "jobs/finalizers"): "update",
    ("", "pods"): "create delete get list patch watch",
    ("", "pods/log"): "get",
    ("", "configmaps"): "create delete get",
    ("", "secrets"): "create update",
    ("apps", "controllerrevisions"): "create delete get list watch",
    ("events.k8s.io", "events"): "create patch",
}


def call(helm: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm, *arguments], capture_output=True, text=True, timeout=60, check=False)


def template(helm: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call(helm, "template", "run", CHART, "--namespace", "ops", "--kube-version", "v1.34.4", *arguments)


def render(helm: Path, arguments: Sequence[str] = ()) -> list[Object]:
    done = template(helm, "--set", IMAGE, *arguments)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def one(objects: list[Object], kind: str) -> Object:
    """The only object of a kind, those of the gateway apart."""
    (only,) = [each for each in of_kind(objects, kind) if component(each) != "gateway"]
    return only


def of_gateway(objects: list[Object], kind: str) -> Object:
    (only,) = [each for each in of_kind(objects, kind) if component(each) == "gateway"]
    return only


def component(thing: Object) -> str:
    return str(thing["metadata"]["labels"]["app.kubernetes.io/component"])


def name_of(thing: Object) -> str:
    return str(thing["metadata"]["name"])


def roles(objects: list[Object]) -> list[Object]:
    return of_kind(objects, "Role") + of_kind(objects, "ClusterRole")


def permissions(role: Object) -> dict[tuple[str, str], str]:
    table: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                table.setdefault((group, resource), set()).update(rule["verbs"])
    return {what: " ".join(sorted(verbs)) for what, verbs in table.items()}


def operator_environment(objects: list[Object]) -> dict[str, str]:
    """The operator's environment as its container will see it."""
    return environment(objects, one(objects, "Deployment"))


def environment(objects: list[Object], deployment: Object) -> dict[str, str]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    facts = {"metadata.namespace": "ops", "metadata.name": "run-penstock-abc"}
    secrets = {
        (name_of(each), key): base64.b64decode(text).decode()
        for each in of_kind(objects, "Secret")
        for key, text in each["data"].items()
    }

    def value(entry: Object) -> str:
        if "value" in entry:
            return str(entry["value"])
        source = entry["valueFrom"]
        if "secretKeyRef" in source:
            return secrets[source["secretKeyRef"]["name"], source["secretKeyRef"]["key"]]
        return facts[source["fieldRef"]["fieldPath"]]

    return {each["name"]: value(each) for each in container["env"]}


@pytest.mark.parametrize("arguments", [(), ("--set", IMAGE), ("--set", IMAGE, *NAMESPACED)])
def test_lint_finds_nothing(helm: Path, arguments: tuple[str, ...]) -> None:
    done = call(helm, "lint", "--strict", "--kube-version", "v1.34.4", CHART, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_helm_installs_the_generated_crds(helm: Path) -> None:
    done = template(helm, "--include-crds", "--set", IMAGE)
    installed = of_kind(list(yaml.safe_load_all(done.stdout)), "CustomResourceDefinition")
    generated = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    assert len(generated) == 3
    assert sorted(installed, key=name_of) == sorted(generated, key=name_of)


class TestPermissions:
    def test_cluster_wide_they_are_what_the_operator_does_and_no_more(self, helm: Path) -> None:
        objects = render(helm, ["--set", "rbac.userRoles=false"])
        role, binding = one(objects, "ClusterRole"), one(objects, "ClusterRoleBinding")
        assert permissions(role) == PERMISSIONS
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "run-penstock", "namespace": "ops"}]

    @pytest.mark.parametrize("more", [(), EVERYTHING], ids=["defaults", "everything"])
    def test_namespaced_there_is_a_role_in_each_namespace_and_nothing_of_the_cluster(
        self, helm: Path, more: tuple[str, ...]
    ) -> None:
        objects = render(helm, NAMESPACED + more)
        assert not of_kind(objects, "ClusterRole")
        assert not of_kind(objects, "ClusterRoleBinding")
        given = {
            role["metadata"]["namespace"]: permissions(role)
            for role in of_kind(objects, "Role")
            if role["metadata"]["name"] == "run-penstock"
        }
        assert given == {"team-a": PERMISSIONS, "team-b": PERMISSIONS}
        for binding in [each for each in of_kind(objects, "RoleBinding") if component(each) != "gateway"]:
            assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "run-penstock", "namespace": "ops"}]
            assert [
                role
                for role in of_kind(objects, "Role")
                if role["metadata"]["name"] == binding["roleRef"]["name"]
                and role["metadata"]["namespace"] == binding["metadata"]["namespace"]
            ]

    @every_variant
    def test_no_role_shows_secrets_or_gives_everything(self, helm: Path, arguments: tuple[str, ...]) -> None:
        objects = render(helm, arguments)
        assert roles(objects)
        for role in roles(objects):
            for (group, resource), verbs in permissions(role).items():
                assert resource != "secrets" or verbs == PERMISSIONS["", "secrets"]
                assert "*" not in group + resource + verbs
                assert not {"escalate", "bind", "impersonate"} & set(verbs.split())

    @every_variant
    def test_only_its_own_lease_is_the_operators(self, helm: Path, arguments: tuple[str, ...]) -> None:
        objects = render(helm, arguments)
        (role,) = [each for each in of_kind(objects, "Role") if each["metadata"]["name"] == "run-penstock-lease"]
        assert role["metadata"]["namespace"] == "ops"
        unbound, bound = role["rules"]
        assert (unbound["verbs"], unbound["resources"]) == (["create"], ["leases"])
        assert bound["resourceNames"] == [operator_environment(objects)["PENSTOCK_LEASE_NAME"]]
        assert bound["verbs"] == ["get", "update", "patch"]
        others = [each for each in roles(objects) if each is not role]
        assert not [each for each in others if "leases" in json.dumps(each["rules"])]

    def test_the_roles_of_the_cluster_extend_to_our_kinds(self, helm: Path) -> None:
        extended: dict[str, set[str]] = {}
        for role in of_kind(render(helm), "ClusterRole"):
            for label in role["metadata"]["labels"]:
                if label.startswith("rbac.authorization.k8s.io/aggregate-to-"):
                    for (group, _), verbs in permissions(role).items():
                        assert group == "penstock.dev"
                        extended.setdefault(label.rpartition("-")[2], set()).update(verbs.split())
        reads = {"get", "list", "watch"}
        writes = {"create", "update", "patch", "delete", "deletecollection"}
        assert extended == {"view": reads, "edit": reads | writes, "admin": reads | writes}

    def test_the_test_of_the_release_has_none(self, helm: Path) -> None:
        objects = render(helm, EVERYTHING)
        account = one(objects, "Pod")["spec"]["serviceAccountName"]
        assert account == "run-penstock-test"
        bindings = of_kind(objects, "RoleBinding") + of_kind(objects, "ClusterRoleBinding")
        assert account not in [subject["name"] for binding in bindings for subject in binding["subjects"]]

    def test_can_be_left_to_others(self, helm: Path) -> None:
        objects = render(helm, ["--set", "rbac.create=false,rbac.userRoles=false"])
        assert not roles(objects)
        assert not of_kind(objects, "RoleBinding")


@every_variant
def test_every_pod_meets_the_restricted_level(helm: Path, arguments: tuple[str, ...]) -> None:
    objects = render(helm, arguments)
    deployments = of_kind(objects, "Deployment")
    for pod in (*(each["spec"]["template"]["spec"] for each in deployments), one(objects, "Pod")["spec"]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"].get("runAsUser") != 0
        assert ("runAsUser" in pod["securityContext"]) is (arguments != OPENSHIFT)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all(set(volume) <= {"name", "emptyDir", "persistentVolumeClaim"} for volume in pod.get("volumes", ()))
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            assert not any("hostPort" in port for port in container.get("ports", ()))


@every_variant
def test_selectors_find_the_operators_pods_and_not_that_of_the_test(helm: Path, arguments: tuple[str, ...]) -> None:
    objects = render(helm, arguments)
    deployment = one(objects, "Deployment")
    operator = deployment["spec"]["template"]["metadata"]["labels"].items()
    test = one(objects, "Pod")["metadata"]["labels"].items()
    selectors = {
        "Deployment": deployment["spec"]["selector"]["matchLabels"],
        "Service": one(objects, "Service")["spec"]["selector"],
    }
    for spread in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        selectors["spread"] = spread["labelSelector"]["matchLabels"]
    for budget in [each for each in of_kind(objects, "PodDisruptionBudget") if component(each) == "operator"]:
        selectors["PodDisruptionBudget"] = budget["spec"]["selector"]["matchLabels"]
    for policy in [each for each in of_kind(objects, "NetworkPolicy") if component(each) == "operator"]:
        selectors["NetworkPolicy"] = policy["spec"]["podSelector"]["matchLabels"]
    for name, selector in selectors.items():
        assert selector.items() <= operator, name
        assert not selector.items() <= test, name
    for monitor in of_kind(objects, "ServiceMonitor"):
        labels = one(objects, "Service")["metadata"]["labels"].items()
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels
    assert {"PodDisruptionBudget", "NetworkPolicy"} <= selectors.keys() or arguments == LITTLE


@every_variant
def test_every_object_is_in_a_namespace_and_has_its_own_name(helm: Path, arguments: tuple[str, ...]) -> None:
    objects = render(helm, arguments)
    of_the_cluster = {"ClusterRole", "ClusterRoleBinding"}
    for each in objects:
        assert ("namespace" in each["metadata"]) is (each["kind"] not in of_the_cluster)
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "run"
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
    assert len(names) == len(set(names))


class TestSettings:
    def test_of_the_chart_are_the_operators_own_by_default(self, helm: Path) -> None:
        settings = from_environment(operator_environment(render(helm)))
        assert settings.namespaces == ()
        told = settings.model_dump(exclude_unset=True)
        defaults = from_environment({}).model_dump()
        different = {name for name, value in told.items() if value != defaults[name]}
        assert different == {"lease_namespace", "lease_name", "identity", "collector_image", "public_url"}

    def test_reach_the_operator_as_they_were_given(self, helm: Path, tmp_path: Path) -> None:
        values = tmp_path / "values.yaml"  # a file, because Helm reads its numbers as floats, unlike those of --set
        given = {
            "jobs": "ordinary",
            "collector": "sidecar",
            "collectorImage": "other:1",
            "inputBytes": 1048576,
            "outputBytes": 1000000,
            "logFormat": "text",
            "logLevel": "DEBUG",
            "workers": 7,
        }
        values.write_text(yaml.safe_dump({"settings": given, "namespaces": ["team-a", "team-b"]}))
        settings = from_environment(operator_environment(render(helm, ["--values", str(values)])))
        assert settings.model_dump(mode="json", exclude_unset=True) == {
            "namespaces": ["team-a", "team-b"],
            "lease_name": "run-penstock",
            "lease_namespace": "ops",
            "identity": "run-penstock-abc",
            "public_url": "http://run-penstock-gateway.ops.svc:8080",
            "http_port": 8080,
            "jobs": "ordinary",
            "collector": "sidecar",
            "collector_image": "other:1",
            "run_as_user": 0,
            "input_bytes": 1048576,
            "output_bytes": 1000000,
            "transfer_patience_seconds": 600,
            "sweep_seconds": 3_600,
            "cache_seconds": 2_592_000,
            "max_parallel_requests": 32,
            "workers": 7,
            "resync_seconds": 300,
            "revision_limit": 10,
            "events": "warnings",
            "log_format": "text",
            "log_level": "DEBUG",
        }

    def test_of_the_object_store_reach_the_operator_with_its_credentials(self, helm: Path) -> None:
        objects = render(helm, EVERYTHING)
        settings = store_settings(operator_environment(objects))
        assert (settings.kind, settings.bucket, settings.prefix) == ("s3", "bucket", "prefix")
        assert (settings.store_endpoint, settings.max_file_bytes) == ("http://minio.storage:9000", 1 << 40)
        (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "minio"}}]
        assert not [name for name in operator_environment(render(helm)) if "STORE" in name]

    def test_the_collector_is_the_operators_image(self, helm: Path) -> None:
        for arguments, image in (
            ((), "registry.example/penstock:0.1.0"),
            (EVERYTHING, "registry.example/penstock@sha256:" + "a" * 64),
        ):
            objects = render(helm, arguments)
            (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
            assert (container["image"], container["args"]) == (image, ["operator"])
            assert operator_environment(objects)["PENSTOCK_COLLECTOR_IMAGE"] == image

    def test_are_not_mixed_up_with_variables_of_a_service_named_penstock(self, helm: Path) -> None:
        assert one(render(helm), "Deployment")["spec"]["template"]["spec"]["enableServiceLinks"] is False


class TestHistory:
    def test_is_handed_to_operator_and_gateway_and_let_out_to(self, helm: Path) -> None:
        secret = {"name": "PENSTOCK_HISTORY_URL", "valueFrom": {"secretKeyRef": {"name": "kept", "key": "url"}}}
        plain = {"name": "PENSTOCK_HISTORY_URL", "value": "postgresql://penstock@db/penstock"}
        for values, wanted, port in (
            ("history.existingSecret=kept,history.port=6432", secret, 6432),
            ("history.url=postgresql://penstock@db/penstock", plain, 5432),
        ):
            objects = render(helm, ["--set", values])
            for deployment in of_kind(objects, "Deployment"):
                (container,) = deployment["spec"]["template"]["spec"]["containers"]
                assert [each for each in container["env"] if "HISTORY" in each["name"]] == [wanted]
            for policy in of_kind(objects, "NetworkPolicy"):
                assert {"ports": [{"protocol": "TCP", "port": port}]} in policy["spec"]["egress"]

    def test_is_nowhere_by_default(self, helm: Path) -> None:
        assert "HISTORY" not in json.dumps(render(helm))


class TestNetworkPolicy:
    def test_lets_in_the_http_port_and_out_dns_and_the_api_server(self, helm: Path) -> None:
        spec = one(render(helm), "NetworkPolicy")["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert spec["ingress"] == [{"ports": [{"protocol": "TCP", "port": "http"}]}]
        ports = [{port["port"] for port in rule["ports"]} for rule in spec["egress"]]
        assert ports == [{53, 5353}, {443, 6443, 8443, 16443}]

    @pytest.mark.parametrize(
        ("endpoint", "port"),
        [("", 443), ("http://minio.storage:9000", 9000), ("https://minio", 443), ("http://[fd00::5]:90/x", 90)],
    )
    def test_lets_out_to_the_object_store(self, helm: Path, endpoint: str, port: int) -> None:
        values = ["--set", f"store.url=s3://bucket,store.endpoint={endpoint}"]
        assert one(render(helm, values), "NetworkPolicy")["spec"]["egress"][2:] == [
            {"ports": [{"protocol": "TCP", "port": port}]}
        ]

    def test_is_narrowed_to_the_api_server_and_to_peers_and_the_test(self, helm: Path) -> None:
        objects = render(helm, EVERYTHING)
        spec = one(objects, "NetworkPolicy")["spec"]
        assert spec["egress"][1]["to"] == [{"ipBlock": {"cidr": "10.0.0.1/32"}}]
        test, peer = spec["ingress"][0]["from"]
        assert peer == {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}
        assert test["podSelector"]["matchLabels"].items() <= one(objects, "Pod")["metadata"]["labels"].items()


class TestGateway:
    def test_is_not_there_where_nobody_wants_it(self, helm: Path) -> None:
        for arguments in (("--set=gateway.enabled=false",), ("--set=store.url=s3://bucket,gateway.enabled=false",)):
            assert {component(each) for each in render(helm, arguments)} == {"operator", "test"}

    def test_serves_endpoints_without_an_object_store(self, helm: Path) -> None:
        objects = render(helm)
        known = environment(objects, of_gateway(objects, "Deployment"))
        assert "PENSTOCK_STORE_URL" not in known
        assert known["PENSTOCK_CALL_RATE"] == "200"

    def test_may_start_executions_and_do_nothing_with_secrets(self, helm: Path) -> None:
        for arguments, kind in (((), "ClusterRole"), (("--set=namespaces={a}",), "Role")):
            objects = render(helm, arguments)
            rules = of_gateway(objects, kind)["rules"]
            assert "secrets" not in {each for rule in rules for each in rule["resources"]}
            assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "watch", "create"}
            writes = [rule for rule in rules if "create" in rule["verbs"]]
            assert [rule["resources"] for rule in writes] == [["executions"]]
            (subject,) = of_gateway(objects, f"{kind}Binding")["subjects"]
            assert subject["name"] == name_of(of_gateway(objects, "ServiceAccount"))

    def test_knows_the_same_store_as_the_operator(self, helm: Path) -> None:
        for arguments in (EMBEDDED, EVERYTHING):
            objects = render(helm, arguments)
            theirs = store_settings(environment(objects, of_gateway(objects, "Deployment")))
            assert theirs == store_settings(operator_environment(objects))
        (container,) = of_gateway(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "minio"}}]

    def test_serves_an_embedded_store_from_the_volume_that_the_operator_has(self, helm: Path) -> None:
        objects = render(helm, EMBEDDED)
        settings = store_settings(operator_environment(objects))
        service = of_gateway(objects, "Service")
        port = service["spec"]["ports"][0]["port"]
        assert settings.gateway_url == f"http://{name_of(service)}.ops.svc:{port}"
        assert settings.signing_keys is not None
        made = of_gateway(objects, "PersistentVolumeClaim")
        for deployment in of_kind(objects, "Deployment"):
            pod = deployment["spec"]["template"]["spec"]
            (claim,) = [each for each in pod["volumes"] if "persistentVolumeClaim" in each]
            assert claim["persistentVolumeClaim"]["claimName"] == name_of(made)
            (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == claim["name"]]
            assert mount["mountPath"] == str(settings.folder)
            assert pod["securityContext"]["fsGroup"] == 65532
        assert made["spec"]["storageClassName"] == "fast"
        assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}

    def test_is_asked_by_the_test_of_the_release(self, helm: Path) -> None:
        def asked(objects: list[Object]) -> list[str]:
            (container,) = one(objects, "Pod")["spec"]["containers"]
            return list(container["args"][1:])

        objects = render(helm, [*EMBEDDED, '--set-json=gateway.from=[{"podSelector": {}}]'])
        assert asked(render(helm, ["--set=gateway.enabled=false"])) == ["operator", "RUN_PENSTOCK"]
        assert asked(objects) == ["operator", "RUN_PENSTOCK", "gateway", "RUN_PENSTOCK_GATEWAY"]
        test, peer = of_gateway(objects, "NetworkPolicy")["spec"]["ingress"][0]["from"]
        assert peer == {"podSelector": {}}
        assert test["podSelector"]["matchLabels"].items() <= one(objects, "Pod")["metadata"]["labels"].items()

    def test_operators_go_where_a_volume_of_one_node_is(self, helm: Path) -> None:
        objects = render(helm, EMBEDDED)
        (term,) = one(objects, "Deployment")["spec"]["template"]["spec"]["affinity"]["podAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        gateway = of_gateway(objects, "Deployment")
        labels = gateway["spec"]["template"]["metadata"]["labels"].items()
        assert term["labelSelector"]["matchLabels"].items() <= labels
        assert gateway["spec"]["strategy"] == {"type": "Recreate"}
        anywhere = render(helm, [*EMBEDDED, "--set=store.embedded.accessMode=ReadWriteMany,gateway.replicas=2"])
        assert "affinity" not in one(anywhere, "Deployment")["spec"]["template"]["spec"]

    def test_has_what_is_there_already(self, helm: Path) -> None:
        more = "--set=store.embedded.existingClaim=mine,store.embedded.signingKeysSecret=ours"
        objects = render(helm, [*EMBEDDED, more])
        assert not of_kind(objects, "PersistentVolumeClaim") + of_kind(objects, "Secret")
        (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
        keys = next(each for each in container["env"] if each["name"] == "PENSTOCK_SIGNING_KEYS")
        assert keys["valueFrom"]["secretKeyRef"] == {"name": "ours", "key": "keys"}

    @pytest.mark.parametrize("arguments", [EMBEDDED, EVERYTHING, NAMESPACED + EMBEDDED])
    def test_is_found_by_its_own_selectors(self, helm: Path, arguments: tuple[str, ...]) -> None:
        objects = render(helm, arguments)
        deployment = of_gateway(objects, "Deployment")
        account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
        assert account == name_of(of_gateway(objects, "ServiceAccount"))
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        operator = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
        for selector in (
            deployment["spec"]["selector"]["matchLabels"],
            of_gateway(objects, "Service")["spec"]["selector"],
            of_gateway(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
            of_gateway(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        ):
            assert selector.items() <= labels
            assert not selector.items() <= operator


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("gateway.replicas=2,store.embedded.enabled=true", "gateway.replicas: one, where"),
        ("store.embedded.size=big", "at '/store/embedded/size'"),
        ("imagee=x", "'imagee' not allowed"),
        ("settings.worker=1", "'worker' not allowed"),
        ("networkPolicy.apiServer.cidr=x", "'cidr' not allowed"),
        ("settings.jobs=mine", "at '/settings/jobs'"),
        ("settings.inputBytes=1048577", "at '/settings/inputBytes'"),
        ("settings.logLevel=info", "at '/settings/logLevel'"),
        ("namespaces=team-a", "at '/namespaces'"),
        ("namespaces={Team}", "at '/namespaces/0'"),
        ("namespaces={a,a}", "at '/namespaces'"),
        ("runAsUser=0", "at '/runAsUser'"),
        ("image.digest=latest", "at '/image/digest'"),
        ("replicas=two", "at '/replicas'"),
        ("podDisruptionBudget.maxUnavailable=0", "at '/podDisruptionBudget/maxUnavailable'"),
        ("podDisruptionBudget.maxUnavailable=0%", "at '/podDisruptionBudget/maxUnavailable'"),
        (r"podLabels.app\.kubernetes\.io/name=x", "at '/podLabels/app.kubernetes.io~1name'"),
        (r"commonLabels.helm\.sh/chart=x", "at '/commonLabels/helm.sh~1chart'"),
        ("networkPolicy.apiServer.ports={0}", "at '/networkPolicy/apiServer/ports/0'"),
        ("serviceAccount.create=false", "serviceAccount.name: needed where serviceAccount.create is false"),
        ("image.repository=", "image.repository: say where the image is"),
    ],
)
def test_refuses_values_that_cannot_be_right(helm: Path, values: str, message: str) -> None:
    done = template(helm, "--set", IMAGE, "--set", values)
    assert done.returncode != 0
    assert message in done.stderr


@every_variant
def test_labels_of_ones_own_are_on_every_object_and_in_no_selector(helm: Path, arguments: tuple[str, ...]) -> None:
    objects = render(helm, [*arguments, "--set=commonLabels.owner=data,podLabels.owner=ops"])
    deployment = one(objects, "Deployment")
    assert {each["metadata"]["labels"]["owner"] for each in objects} == {"data"}
    assert deployment["spec"]["template"]["metadata"]["labels"]["owner"] == "ops"  # the nearer one counts
    assert "owner" not in deployment["spec"]["selector"]["matchLabels"]
    assert "owner" not in one(objects, "Service")["spec"]["selector"]


@pytest.mark.parametrize("budget", [(), ("--set-string=podDisruptionBudget.maxUnavailable=1%",)])
def test_a_single_replica_does_not_keep_its_node_from_being_drained(helm: Path, budget: tuple[str, ...]) -> None:
    spec = one(render(helm, ["--set=replicas=1", *budget]), "PodDisruptionBudget")["spec"]
    # Kubernetes rounds a share of pods that may be away up, so of one pod 1 % is one.
    assert "minAvailable" not in spec
    assert spec["maxUnavailable"] not in {0, "0", "0%"}
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
