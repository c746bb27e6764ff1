"""Kubeconfig files in all their forms, by kubectl's rules."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.errors import ConfigurationError
from headrace.kubernetes.client import _proxy
from headrace.kubernetes.kubeconfig import in_cluster, load, resolve


def write(path: Path, **more: Any) -> Path:
    document = {
        "current-context": "one",
        "clusters": [{"name": "c", "cluster": {"server": "https://one:6443", "certificate-authority": "ca.pem"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
        **more,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_first_file_to_name_a_thing_wins_and_paths_are_relative_to_their_file(tmp_path: Path) -> None:
    first = write(tmp_path / "a" / "config", users=[{"name": "u", "user": {"tokenFile": "token"}}])
    second = write(
        tmp_path / "b" / "config",
        clusters=[
            {"name": "c", "cluster": {"server": "https://other"}},
            {"name": "d", "cluster": {"server": "http://d"}},
        ],
        contexts=[{"name": "two", "context": {"cluster": "d", "user": "u"}}],
    )
    found = load([first, second])
    assert found.server == "https://one:6443"
    assert found.namespace == "ns"
    assert found.certificate_authority == str(tmp_path / "a" / "ca.pem")
    assert found.user.token_file == str(tmp_path / "a" / "token")
    other = load([first, second], "two")
    assert (other.server, other.user.token_file) == ("http://d", str(tmp_path / "a" / "token"))


def test_kubeconfig_variable_lists_files_and_missing_ones_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "config")
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join([str(tmp_path / "none"), str(path)]))
    assert resolve().server == "https://one:6443"
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="does not exist"):
        resolve()


def test_data_wins_over_a_path_and_every_cluster_setting_is_read(tmp_path: Path) -> None:
    cluster = {
        "server": "https://one/",
        "certificate-authority": "ca.pem",
        "certificate-authority-data": base64.b64encode(b"PEM").decode(),
        "tls-server-name": "kubernetes",
        "proxy-url": "http://proxy:3128",
        "insecure-skip-tls-verify": True,
    }
    user = {
        "client-certificate": "c.pem",
        "client-key-data": base64.b64encode(b"KEY").decode(),
        "as": "eve",
        "as-groups": ["g"],
    }
    path = write(tmp_path / "config", clusters=[{"name": "c", "cluster": cluster}], users=[{"name": "u", "user": user}])
    found = load([path])
    assert found.server == "https://one"
    assert found.certificate_authority == b"PEM"
    assert (found.tls_server_name, found.insecure_skip_tls_verify) == ("kubernetes", True)
    assert _proxy(found) == "http://proxy:3128"
    assert (found.user.client_certificate, found.user.client_key) == (str(tmp_path / "c.pem"), b"KEY")
    assert found.user.impersonate == (("Impersonate-User", "eve"), ("Impersonate-Group", "g"))


def test_the_proxy_of_the_environment_is_used_but_not_where_no_proxy_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load([write(tmp_path / "config")])
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert _proxy(found) is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert _proxy(found) == "http://proxy:3128"
    monkeypatch.setenv("NO_PROXY", "one")
    assert _proxy(found) is None


def test_an_exec_plugin_is_found_beside_its_file(tmp_path: Path) -> None:
    plugin = {"command": "./login", "args": ["a"], "env": [{"name": "N", "value": "v"}], "apiVersion": "x/v1"}
    found = load([write(tmp_path / "config", users=[{"name": "u", "user": {"exec": plugin}}])])
    assert found.user.exec is not None
    assert Path(found.user.exec.command) == tmp_path / "login"
    assert (found.user.exec.args, found.user.exec.env) == (("a",), (("N", "v"),))


def test_a_pod_reads_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text("PEM")
    (tmp_path / "namespace").write_text("ours\n")
    found = in_cluster(tmp_path)
    assert found.server == "https://[fd00::1]:443"
    assert (found.namespace, found.user.token_file) == ("ours", str(tmp_path / "token"))
    assert found.certificate_authority == str(tmp_path / "ca.crt")
    with pytest.raises(ConfigurationError, match="no service account token"):
        in_cluster(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"current-context": ""}, "no current-context"),
        ({"current-context": "three"}, "it has: one"),
        ({"clusters": []}, "which it lacks"),
        ({"users": []}, "which it lacks"),
        ({"clusters": [{"name": "c", "cluster": {}}]}, "no server address"),
        ({"users": [{"name": "u", "user": {"auth-provider": {"name": "gcp"}}}]}, "auth-provider"),
        ({"users": [{"name": "u", "user": {"exec": {}}}]}, "names no command"),
        (
            {"clusters": [{"name": "c", "cluster": {"server": "https://x", "certificate-authority-data": "é"}}]},
            "base64",
        ),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load([write(tmp_path / "config", **change)])
