"""Sends the requests for one Lease, each once, and translates their errors.

A write carries the `resourceVersion` of the last read; its 409 is no error: another client was faster, the result None.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec
from lightkube import AsyncClient
from lightkube.config.kubeconfig import SingleConfig
from lightkube.core.exceptions import ConfigError
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease

from ...errors import AccessRefused, ConfigurationError, ElectorUnreachable, MigrationError, causes
from .lease import LeaseRecord

MANIFEST = "deploy/kubernetes/leader-election/rbac.yaml"
BUSY = {408, 425, 429}

# the HTTP client logs the URL of each request: too much for renewals every few seconds
logging.getLogger("httpx2").addFilter(lambda record: "/apis/coordination.k8s.io/" not in str(record.args))


@dataclass(frozen=True)
class StoredLease:
    """A Lease as it was read or written; `raw` has its resourceVersion, its uid and the fields of other clients."""

    record: LeaseRecord
    raw: Lease

    @property
    def uid(self) -> str | None:
        """The id of this object; a Lease that is deleted and created again with the same name has another."""
        return self.raw.metadata.uid if self.raw.metadata else None


@dataclass(frozen=True)
class LeaseAddress:
    """The cluster, namespace and name of a Lease, and the limit of a request."""

    config: SingleConfig
    namespace: str
    name: str
    request_seconds: float
    lease_seconds: int
    """Assumed if a record does not say how long it lasts."""

    def __str__(self) -> str:
        return f"Lease {self.namespace}/{self.name}"

    def client(self) -> LeaseClient:
        """Return a client for the event loop of the caller, not yet connected."""
        try:
            return LeaseClient(self)
        except (OSError, ssl.SSLError, ConfigError, msgspec.MsgspecError, ValueError) as error:
            raise ConfigurationError(
                f"the credentials for the Kubernetes API cannot be used ({type(error).__name__}). To fix: check the "
                "certificate files and the user that the kubeconfig or the service account names"
            ) from None


class LeaseClient:
    """Sends requests for one Lease; each method raises `ElectorUnreachable` or `AccessRefused`."""

    def __init__(self, address: LeaseAddress) -> None:
        self._address = address
        timeout = httpx2.Timeout(address.request_seconds)
        self._client = AsyncClient(address.config, namespace=address.namespace, timeout=timeout)

    async def get(self) -> StoredLease | None:
        """Return the Lease; None if it does not exist."""
        lease = await self._ask("get", self._client.get(Lease, self._address.name), none_at=404)
        return self._stored(lease)

    async def create(self, record: LeaseRecord) -> StoredLease | None:
        """Create the Lease; None if another client created it."""
        return self._stored(await self._ask("create", self._client.create(self._new(record)), none_at=409))

    async def replace(self, stored: StoredLease, record: LeaseRecord) -> StoredLease | None:
        """Write another record; None if the Lease has changed since `stored`, or was deleted."""
        raw = stored.raw
        lease = Lease(metadata=raw.metadata, spec=_spec(raw.spec or LeaseSpec(), record))
        return self._stored(await self._ask("update", self._client.replace(lease), none_at=409))

    async def rehearse(self, record: LeaseRecord) -> None:
        """Send all requests that a hold needs, writes as a dry run: the API server checks them and stores nothing."""
        found = await self.get()
        lease = self._new(record)
        await self._ask("create", self._client.create(lease, dry_run=True), none_at=409)
        await self._ask("update", self._client.replace(found.raw if found else lease, dry_run=True), none_at=409)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _new(self, record: LeaseRecord) -> Lease:
        metadata = ObjectMeta(name=self._address.name, namespace=self._address.namespace)
        return Lease(metadata=metadata, spec=_spec(LeaseSpec(), record))

    def _stored(self, lease: Lease | None) -> StoredLease | None:
        return None if lease is None else StoredLease(_record(lease, self._address.lease_seconds), lease)

    async def _ask(self, verb: str, request: Awaitable[Lease], *, none_at: int) -> Lease | None:
        try:
            # the client's own limit applies to each step of a request; this one to the whole
            async with asyncio.timeout(self._address.request_seconds):
                return await request
        except httpx2.HTTPStatusError as error:
            if error.response.status_code == none_at:
                return None
            raise self._refusal(verb, error) from error
        except Exception as error:
            raise self._failure(verb, error) from None

    def _refusal(self, verb: str, error: httpx2.HTTPStatusError) -> MigrationError:
        code, namespace = error.response.status_code, self._address.namespace
        failed = f"cannot {verb} {self._address}: the Kubernetes API answers {code}"
        if code in BUSY or code >= 500:
            return ElectorUnreachable(failed)
        if code == 401:
            remedy = "mount a fresh service account token, or renew the user of the kubeconfig"
            why = f"it does not accept the credentials. To fix: {remedy}"
        elif code == 403 and "being terminated" in str(error):
            why = f"namespace {namespace} is being deleted. To fix: wait, and create the namespace again"
        elif code == 403:
            why = (
                f"the credentials lack a permission. To fix: grant the verb {verb!r} on leases of coordination.k8s.io "
                f"there (kubectl apply -n {namespace} -f {MANIFEST}), and check that its resourceNames are "
                "MIGRATION_LEASE_NAME"
            )
        elif code == 404:
            remedy = "correct MIGRATION_LEASE_NAMESPACE, or the server of the kubeconfig"
            why = f"it has no namespace {namespace}, or no Leases. To fix: {remedy}"
        else:
            why = "it refuses the request. To fix: check MIGRATION_LEASE_NAME, and which other clients write that Lease"
        return AccessRefused(f"{failed}: {why}")

    def _failure(self, verb: str, error: Exception) -> MigrationError:
        for cause in causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                return AccessRefused(
                    f"the certificate of the Kubernetes API does not verify ({cause.verify_message}). To fix: correct "
                    "the certificate-authority of the kubeconfig"
                )
        if isinstance(error, TimeoutError | httpx2.TimeoutException):
            why = f"no answer of the Kubernetes API within {self._address.request_seconds:g} s"
        elif isinstance(error, httpx2.ConnectError):
            remedy = "make sure that it runs, and that a NetworkPolicy lets this pod reach it"
            why = f"no connection to the Kubernetes API. To fix: {remedy}"
        elif isinstance(error, httpx2.HTTPError):
            why = "the connection to the Kubernetes API was cut"
        elif isinstance(error, ConfigError | OSError | AssertionError):
            return AccessRefused(
                f"the credentials for the Kubernetes API cannot be read ({type(error).__name__}). To fix: check the "
                "token file or the exec plugin of the kubeconfig's user"
            )
        else:
            # a proxy may answer for an API server that is down
            why = f"the answer of the Kubernetes API is not a Kubernetes object ({type(error).__name__})"
        return ElectorUnreachable(f"cannot {verb} {self._address}: {why}")


def _record(lease: Lease, lease_seconds: int) -> LeaseRecord:
    spec = lease.spec or LeaseSpec()
    return LeaseRecord(
        spec.holderIdentity or "",
        spec.leaseDurationSeconds or lease_seconds,
        spec.acquireTime,
        spec.renewTime,
        spec.leaseTransitions or 0,
    )


def _spec(before: LeaseSpec, record: LeaseRecord) -> LeaseSpec:
    values: dict[str, Any] = {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.lease_seconds,
        "acquireTime": record.acquired,
        "renewTime": record.renewed,
        "leaseTransitions": record.transitions,
    }
    return msgspec.structs.replace(before, **values)
