"""Where the Kubernetes API is and who we are there: KUBECONFIG, the pod's service account, or ~/.kube/config."""

from __future__ import annotations

import os
from pathlib import Path

from lightkube.config.kubeconfig import DEFAULT_KUBECONFIG, SERVICE_ACCOUNT, KubeConfig, SingleConfig

from ...errors import ConfigurationError

INSTEAD = "or choose another MIGRATION_STRATEGY"


def cluster_config(service_account: str = SERVICE_ACCOUNT, default_file: str = DEFAULT_KUBECONFIG) -> SingleConfig:
    """The cluster to ask, the credentials and the namespace.

    KUBECONFIG wins over the service account, for whoever sets it means it. A token file, which the service account's
    is, is read again by lightkube when the API server no longer takes the token.

    Raises:
        ConfigurationError: there is none, or it cannot be used.
    """
    given = os.environ.get("KUBECONFIG")
    source = "the file of KUBECONFIG" if given else "the service account" if in_pod(service_account) else default_file
    try:
        if given:
            config = KubeConfig.from_file(given).get()
        elif in_pod(service_account):
            config = KubeConfig.from_service_account(service_account).get()
        elif Path(default_file).expanduser().is_file():
            config = KubeConfig.from_file(default_file).get()
        else:
            raise ConfigurationError(
                "MIGRATION_STRATEGY=kubernetes finds no Kubernetes API: this is no pod with a service account, and "
                "there is no kubeconfig; in a pod set serviceAccountName and leave automountServiceAccountToken on, "
                f"elsewhere set KUBECONFIG, {INSTEAD}"
            )
    except ConfigurationError:
        raise
    except Exception as error:  # a foreign file can be wrong in any way, and its text may hold a token
        raise _unusable(source, type(error).__name__) from None
    if config is None or config.user is None:
        raise _unusable(source, "its context names no user")
    return config


def in_pod(service_account: str = SERVICE_ACCOUNT) -> bool:
    """Whether Kubernetes has given this process a service account."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and Path(service_account, "token").exists()


def _unusable(source: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"MIGRATION_STRATEGY=kubernetes cannot use {source} ({why}); it must be one file with a current context, its "
        f"cluster and its user: correct it, {INSTEAD}"
    )
