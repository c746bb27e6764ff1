"""Reads kubeconfig files: merging, contexts, relative paths. No network, no credentials obtained: `credentials` does
that.

The rules are kubectl's: of several files in ``KUBECONFIG`` the first to name a cluster, user, context or current
context wins; paths inside a file are relative to that file. Source: kubernetes.io, "Organizing Cluster Access Using
kubeconfig Files", and the Config type of k8s.io/client-go/tools/clientcmd/api/v1.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.errors import ConfigurationError

__all__ = ["ClusterConfig", "ExecPlugin", "UserConfig", "in_cluster", "load", "resolve"]

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ExecPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """A command that prints credentials (client.authentication.k8s.io). ``command`` is resolved against its file."""

    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    api_version: str = "client.authentication.k8s.io/v1"
    provide_cluster_info: bool = False
    install_hint: str = ""


class UserConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to prove who we are. Certificates and keys are PEM bytes, or a path that is read again when it changes."""

    token: str | None = None
    token_file: str | None = None
    username: str | None = None
    password: str | None = None
    client_certificate: bytes | str | None = None
    client_key: bytes | str | None = None
    exec: ExecPlugin | None = None
    impersonate: tuple[tuple[str, str], ...] = ()


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster as one user in one namespace. ``certificate_authority`` is PEM bytes, a path, or ``None``: the
    system's."""

    server: str
    certificate_authority: bytes | str | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    proxy_url: str | None = None
    namespace: str | None = None
    user: UserConfig = UserConfig()
    origin: str = ""


def resolve(kubeconfig: str | None = None, context: str | None = None) -> ClusterConfig:
    """The cluster to talk to: the argument, else ``KUBECONFIG``, else ``~/.kube/config``, else the cluster we run in.

    Raises:
        ConfigurationError: none of them exists, or what is found is no usable kubeconfig.
    """
    named = kubeconfig or os.environ.get("KUBECONFIG", "")
    if named:
        paths = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
        existing = [path for path in paths if path.exists()]
        if not existing:
            raise ConfigurationError(
                f"kubeconfig {named!r} does not exist; correct KUBECONFIG (or kubeconfig=), or unset it to use the "
                "cluster that this process runs in"
            )
        return load(existing, context)
    home = Path("~/.kube/config").expanduser()
    if home.exists():
        return load([home], context)
    if os.environ.get("KUBERNETES_SERVICE_HOST") and context is None:
        return in_cluster()
    raise ConfigurationError(
        "no Kubernetes cluster is configured: set KUBECONFIG, make ~/.kube/config, or run in a pod that has a service "
        "account"
    )


def in_cluster(folder: Path | None = None) -> ClusterConfig:
    """The cluster this pod runs in; token and CA are read from the service account's folder and re-read as they rotate.

    Raises:
        ConfigurationError: not in a pod, or the service account's token is not mounted.
    """
    folder = folder or _SERVICE_ACCOUNT
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigurationError("not in a cluster: KUBERNETES_SERVICE_HOST is not set")
    if not (folder / "token").exists():
        raise ConfigurationError(
            f"{folder / 'token'} is missing: the pod has no service account token mounted "
            "(automountServiceAccountToken)"
        )
    if ":" in host:
        host = f"[{host}]"
    namespace = folder / "namespace"
    authority = folder / "ca.crt"
    return ClusterConfig(
        server=f"https://{host}:{port}",
        certificate_authority=str(authority) if authority.exists() else None,
        namespace=namespace.read_text().strip() if namespace.exists() else None,
        user=UserConfig(token_file=str(folder / "token")),
        origin=str(folder),
    )


def load(paths: Sequence[Path], context: str | None = None) -> ClusterConfig:
    """One context of one or several kubeconfig files, merged.

    Args:
        paths: files; the first to name a thing wins.
        context: its name; default: ``current-context``.

    Raises:
        ConfigurationError: unreadable, not a kubeconfig, or it names something that it does not hold.
    """
    clusters: dict[str, tuple[Mapping[str, Any], Path]] = {}
    users: dict[str, tuple[Mapping[str, Any], Path]] = {}
    contexts: dict[str, tuple[Mapping[str, Any], Path]] = {}
    current = ""
    for path in paths:
        document = _read(path)
        current = current or str(document.get("current-context") or "")
        for target, plural, singular in (
            (clusters, "clusters", "cluster"),
            (users, "users", "user"),
            (contexts, "contexts", "context"),
        ):
            for entry in document.get(plural) or []:
                if not isinstance(entry, Mapping) or "name" not in entry:
                    raise ConfigurationError(f"kubeconfig {path}: an entry of {plural!r} has no name")
                target.setdefault(str(entry["name"]), (entry.get(singular) or {}, path.parent))
    shown = os.pathsep.join(str(path) for path in paths)
    name = context or current
    if not name:
        raise ConfigurationError(f"kubeconfig {shown} has no current-context; set one or give context=")
    if name not in contexts:
        known = ", ".join(sorted(contexts)) or "none"
        raise ConfigurationError(f"kubeconfig {shown} has no context {name!r}; it has: {known}")
    chosen, _ = contexts[name]
    cluster_name, user_name = str(chosen.get("cluster") or ""), str(chosen.get("user") or "")
    if cluster_name not in clusters:
        raise ConfigurationError(
            f"kubeconfig {shown}: context {name!r} names the cluster {cluster_name!r}, which it lacks"
        )
    if user_name and user_name not in users:
        raise ConfigurationError(f"kubeconfig {shown}: context {name!r} names the user {user_name!r}, which it lacks")
    cluster, folder = clusters[cluster_name]
    server = str(cluster.get("server") or "")
    if not server.startswith(("https://", "http://")):
        raise ConfigurationError(f"kubeconfig {shown}: cluster {cluster_name!r} has no server address (https://…)")
    user, user_folder = users.get(user_name, ({}, folder))
    return ClusterConfig(
        server=server.rstrip("/"),
        certificate_authority=_pem(cluster, "certificate-authority", folder),
        insecure_skip_tls_verify=bool(cluster.get("insecure-skip-tls-verify")),
        tls_server_name=cluster.get("tls-server-name") or None,
        proxy_url=cluster.get("proxy-url") or None,
        namespace=chosen.get("namespace") or None,
        user=_user(user, user_folder, user_name),
        origin=f"{shown} context {name}",
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"reading the kubeconfig {path} needs the module 'yaml'; install headrace[kubernetes]"
        ) from error
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"kubeconfig {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"kubeconfig {path} is not YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise ConfigurationError(f"kubeconfig {path} is not a mapping; is it a kubeconfig?")
    return document


def _user(user: Mapping[str, Any], folder: Path, name: str) -> UserConfig:
    if user.get("auth-provider"):
        raise ConfigurationError(
            f"kubeconfig user {name!r} uses an auth-provider, which Kubernetes removed in favour of exec plugins; "
            "log in again with a current version of your provider's tool"
        )
    impersonate: list[tuple[str, str]] = []
    if user.get("as"):
        impersonate.append(("Impersonate-User", str(user["as"])))
    if user.get("as-uid"):
        impersonate.append(("Impersonate-Uid", str(user["as-uid"])))
    impersonate.extend(("Impersonate-Group", str(group)) for group in user.get("as-groups") or [])
    for key, values in (user.get("as-user-extra") or {}).items():
        impersonate.extend((f"Impersonate-Extra-{key}", str(value)) for value in values or [])
    token_file = user.get("tokenFile") or None
    plugin = user.get("exec")
    return UserConfig(
        token=user.get("token") or None,
        token_file=str(folder / token_file) if token_file else None,
        username=user.get("username") or None,
        password=user.get("password") or None,
        client_certificate=_pem(user, "client-certificate", folder),
        client_key=_pem(user, "client-key", folder),
        exec=None if plugin is None else _plugin(plugin, folder, name),
        impersonate=tuple(impersonate),
    )


def _plugin(plugin: Mapping[str, Any], folder: Path, user: str) -> ExecPlugin:
    command = str(plugin.get("command") or "")
    if not command:
        raise ConfigurationError(f"kubeconfig user {user!r}: its exec plugin names no command")
    if os.sep in command and not os.path.isabs(command):
        command = str(folder / command)
    return ExecPlugin(
        command=command,
        args=tuple(str(argument) for argument in plugin.get("args") or []),
        env=tuple((str(entry["name"]), str(entry["value"])) for entry in plugin.get("env") or []),
        api_version=str(plugin.get("apiVersion") or "client.authentication.k8s.io/v1"),
        provide_cluster_info=bool(plugin.get("provideClusterInfo")),
        install_hint=str(plugin.get("installHint") or ""),
    )


def _pem(entry: Mapping[str, Any], name: str, folder: Path) -> bytes | str | None:
    """``<name>-data`` (base64, wins) as bytes, or ``<name>`` as a path."""
    data = entry.get(f"{name}-data")
    if data:
        try:
            return base64.b64decode("".join(str(data).split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ConfigurationError(f"kubeconfig: {name}-data is not base64: {error}") from error
    path = entry.get(name)
    return str(folder / path) if path else None
