"""The resources that every cluster serves, by any of their names: for what is derived without a cluster at hand.

Source: kubernetes.io, API reference 1.36, and the short names of ``kubectl api-resources``.
"""

from __future__ import annotations

import re
from typing import Final

from headrace.errors import ConfigurationError
from headrace.kubernetes.resources import Resource

__all__ = ["resource_named"]

#: group, version, then each as kind:plural:short names; a leading ``-``: outside namespaces.
_TABLE: Final = """
core v1 Pod:pods:po Service:services:svc ConfigMap:configmaps:cm Secret:secrets Endpoints:endpoints:ep Event:events:ev
core v1 LimitRange:limitranges:limits PersistentVolumeClaim:persistentvolumeclaims:pvc PodTemplate:podtemplates
core v1 ReplicationController:replicationcontrollers:rc ResourceQuota:resourcequotas:quota ServiceAccount:serviceaccounts:sa
core v1 -Namespace:namespaces:ns -Node:nodes:no -PersistentVolume:persistentvolumes:pv
apps v1 Deployment:deployments:deploy StatefulSet:statefulsets:sts DaemonSet:daemonsets:ds ReplicaSet:replicasets:rs
apps v1 ControllerRevision:controllerrevisions
batch v1 Job:jobs CronJob:cronjobs:cj
autoscaling v2 HorizontalPodAutoscaler:horizontalpodautoscalers:hpa
policy v1 PodDisruptionBudget:poddisruptionbudgets:pdb
networking.k8s.io v1 Ingress:ingresses:ing NetworkPolicy:networkpolicies:netpol -IngressClass:ingressclasses
discovery.k8s.io v1 EndpointSlice:endpointslices
coordination.k8s.io v1 Lease:leases
storage.k8s.io v1 -StorageClass:storageclasses:sc -VolumeAttachment:volumeattachments -CSIDriver:csidrivers -CSINode:csinodes
rbac.authorization.k8s.io v1 Role:roles RoleBinding:rolebindings -ClusterRole:clusterroles
rbac.authorization.k8s.io v1 -ClusterRoleBinding:clusterrolebindings
apiextensions.k8s.io v1 -CustomResourceDefinition:customresourcedefinitions:crd,crds
scheduling.k8s.io v1 -PriorityClass:priorityclasses:pc
certificates.k8s.io v1 -CertificateSigningRequest:certificatesigningrequests:csr
"""
_VERSION: Final = re.compile(r"v\d+((alpha|beta)\d+)?")


def _read() -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    for line in _TABLE.split("\n"):
        group, version, *entries = line.split() or ("", "")
        for entry in entries:
            kind, plural, short = [*entry.split(":"), ""][:3]
            resource = Resource(
                group="" if group == "core" else group,
                version=version,
                plural=plural,
                kind=kind.removeprefix("-"),
                namespaced=not kind.startswith("-"),
            )
            for name in {plural, resource.kind.lower(), *filter(None, short.split(","))}:
                found.setdefault(name, []).append(resource)
    return found


_resources: Final = _read()


def resource_named(name: str) -> Resource:
    """The resource that a name means, without asking a cluster. A custom resource is named with its group.

    Raises:
        ConfigurationError: a bare name that no cluster serves by itself.
    """
    first, _, rest = name.partition(".")
    known = _resources.get(first.lower(), ())
    if not rest:
        if known:
            return known[0]
        raise ConfigurationError(
            f"{name!r} is no resource that every cluster serves; name a custom resource with its group, such as "
            f"{name}.stable.example.com"
        )
    version, _, group = rest.partition(".")
    if not _VERSION.fullmatch(version):
        version, group = "v1", rest
    for resource in known:
        if resource.group == group:
            return resource
    return Resource(group=group, version=version, plural=first, kind=first, namespaced=True)
