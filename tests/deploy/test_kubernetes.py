"""The Kubernetes objects fit each other, and the network policies let nobody near the ports of actors."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.files import objects, pods
from verani_gateway.config import SETTINGS

NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
GATEWAYS = {NAME: "verani", COMPONENT: "gateways"}
HOSTS = {NAME: "verani", COMPONENT: "hosts"}
STRANGER = {NAME: "something-else"}
CALLER = {**STRANGER, "verani/caller": "true"}

PORTS = {"public": 8000, "internal": 8001, "admin": 8100, "links": 8101}
ACTOR = 40001  # any port that the system gave to an actor


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [each for each in objects() if each["kind"] == kind]


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def comes_from(peer: dict[str, Any], labels: dict[str, str], namespace: str) -> bool:
    """Say whether a peer of a rule means a pod; all policies are in the namespace "default"."""
    if "namespaceSelector" in peer:
        assert "podSelector" not in peer
        return selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
    return namespace == "default" and selects(peer["podSelector"], labels)


def reaches(source: dict[str, str], target: dict[str, str], port: int, *, namespace: str = "default") -> bool:
    """Decide as Kubernetes does: a pod that a policy selects takes only what some rule of some policy allows."""
    policies = [each["spec"] for each in of_kind("NetworkPolicy") if selects(each["spec"]["podSelector"], target)]
    assert all(policy["policyTypes"] == ["Ingress"] for policy in policies)
    return not policies or any(
        ("from" not in rule or any(comes_from(peer, source, namespace) for peer in rule["from"]))
        and ("ports" not in rule or any(PORTS[each["port"]] == port for each in rule["ports"]))
        for policy in policies
        for rule in policy["ingress"]
    )


@pytest.mark.parametrize("target", [GATEWAYS, HOSTS], ids=["gateways", "hosts"])
@pytest.mark.parametrize("port", [PORTS["admin"], PORTS["links"], ACTOR])
def test_only_pods_of_the_service_reach_the_ports_of_actors_and_links(target: dict[str, str], port: int) -> None:
    assert reaches(GATEWAYS, target, port)
    assert reaches(HOSTS, target, port)
    assert not reaches(STRANGER, target, port)
    assert not reaches(CALLER, target, port)
    for namespace in ("monitoring", "elsewhere"):
        assert not reaches(GATEWAYS, target, port, namespace=namespace)


def test_everybody_reaches_the_public_listener_and_few_the_internal_one() -> None:
    assert reaches(STRANGER, GATEWAYS, PORTS["public"], namespace="elsewhere")
    assert reaches(CALLER, GATEWAYS, PORTS["internal"])
    assert reaches(STRANGER, GATEWAYS, PORTS["internal"], namespace="monitoring")
    assert not reaches(STRANGER, GATEWAYS, PORTS["internal"])
    assert not reaches(CALLER, GATEWAYS, PORTS["internal"], namespace="elsewhere")


def test_policies_services_and_budgets_select_pods_that_there_are() -> None:
    labels = [pod["metadata"]["labels"] for pod in pods().values()]
    assert labels == [GATEWAYS, HOSTS]
    for each in of_kind("Service"):
        assert each["spec"]["selector"] in labels
    for each in of_kind("PodDisruptionBudget"):
        assert each["spec"]["selector"]["matchLabels"] in labels
    for each in of_kind("NetworkPolicy"):
        assert any(selects(each["spec"]["podSelector"], one) for one in labels)


def test_services_point_to_ports_that_their_pods_have() -> None:
    named = {
        tuple(sorted(pod["metadata"]["labels"].items())): {
            each["name"]: each["containerPort"] for each in pod["spec"]["containers"][0]["ports"]
        }
        for pod in pods().values()
    }
    for each in of_kind("Service"):
        ports = named[tuple(sorted(each["spec"]["selector"].items()))]
        for port in each["spec"]["ports"]:
            assert port.get("targetPort", port["port"]) in {*ports, *ports.values()}


@pytest.mark.parametrize("name", pods())
def test_services_set_no_variable_that_is_a_setting(name: str) -> None:
    # Kubernetes sets VERANI_PORT=tcp://... in every pod beside a Service called verani, unless told not to.
    linked = {each["metadata"]["name"].upper().replace("-", "_") + "_PORT" for each in of_kind("Service")}
    assert linked & {setting.variable for setting in SETTINGS.values()}
    assert pods()[name]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("name", pods())
def test_pods_have_no_rights_that_they_do_not_need(name: str) -> None:
    spec = pods()[name]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("name", pods())
def test_every_secret_that_is_read_is_mounted(name: str) -> None:
    spec = pods()[name]["spec"]
    container = spec["containers"][0]
    (mount,) = [each["mountPath"] for each in container["volumeMounts"] if each["name"] == "secrets"]
    (secret,) = [each["secret"] for each in spec["volumes"] if each["name"] == "secrets"]
    read = {each["value"] for each in container["env"] if each["name"].endswith("_FILE")}
    # Without a list of items, all keys of the secret are files.
    keys = {each["path"] for each in secret.get("items", [])} or {"cluster_secret", "rpc_token", "admin_token"}
    assert read == {f"{mount}/{key}" for key in keys}


def test_the_others_join_the_first_pod_with_hosts() -> None:
    (stateful,) = of_kind("StatefulSet")
    leader = f"{stateful['metadata']['name']}-0"
    script = stateful["spec"]["template"]["spec"]["containers"][0]["args"][0]
    assert f"{leader}) exec verani serve" in script
    joined = f"{leader}.{stateful['spec']['serviceName']}"
    assert f"exec verani join {joined} " in script
    assert pods()["verani-gateways"]["spec"]["containers"][0]["args"][:2] == ["join", joined]
    # A majority is left when the leader or another one is gone.
    assert stateful["spec"]["replicas"] >= 3
