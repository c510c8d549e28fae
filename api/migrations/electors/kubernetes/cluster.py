"""Finds the Kubernetes API and the credentials: KUBECONFIG, the pod's service account, or ~/.kube/config."""

from __future__ import annotations

import os
from pathlib import Path

from lightkube.config.kubeconfig import DEFAULT_KUBECONFIG, SERVICE_ACCOUNT, KubeConfig, SingleConfig

from ...errors import ConfigurationError


def cluster_config(service_account: str = SERVICE_ACCOUNT, default_file: str = DEFAULT_KUBECONFIG) -> SingleConfig:
    """Return the cluster, the credentials and the namespace.

    KUBECONFIG wins over the service account, because it is set on purpose. Lightkube reads a token file, such as that
    of the service account, again when the API server rejects the token. Raises `ConfigurationError` if there is no
    cluster, or its configuration cannot be used.
    """
    kubeconfig = os.environ.get("KUBECONFIG")
    in_pod = not kubeconfig and _in_pod(service_account)
    source = "the file of KUBECONFIG" if kubeconfig else "the service account" if in_pod else default_file
    try:
        if kubeconfig:
            config = KubeConfig.from_file(kubeconfig).get()
        elif in_pod:
            config = KubeConfig.from_service_account(service_account).get()
        elif Path(default_file).expanduser().is_file():
            config = KubeConfig.from_file(default_file).get()
        else:
            raise ConfigurationError(
                "MIGRATION_STRATEGY=kubernetes finds no Kubernetes API: this process is not in a pod with a service "
                "account, and there is no kubeconfig. To fix: in a pod, set serviceAccountName and leave "
                "automountServiceAccountToken on; elsewhere, set KUBECONFIG; or choose another MIGRATION_STRATEGY"
            )
    except ConfigurationError:
        raise
    except Exception as error:  # the file can be wrong in any way, and the error may quote a token
        raise _unusable(source, type(error).__name__) from None
    if config is None or config.user is None:
        raise _unusable(source, "its context names no user")
    return config


def _in_pod(service_account: str) -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and Path(service_account, "token").exists()


def _unusable(source: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"MIGRATION_STRATEGY=kubernetes cannot use {source} ({why}). To fix: make it one file with a current context, "
        "its cluster and its user, or choose another MIGRATION_STRATEGY"
    )
