"""One Lease of the Kubernetes API: get, create and replace with `resourceVersion`, each tried once, errors translated.

A 409 is no error here: somebody else was faster, and the answer is None.
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


class _NotOurs(logging.Filter):
    """The HTTP client writes a line with the URL for each request: not for a renewal every other second."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "/apis/coordination.k8s.io/" not in str(record.args)


logging.getLogger("httpx2").addFilter(_NotOurs())


@dataclass(frozen=True)
class StoredLease:
    """A Lease as it was read or written; `raw` carries its resourceVersion, uid and everything that is not ours."""

    record: LeaseRecord
    raw: Lease

    @property
    def uid(self) -> str | None:
        """Of this very object: one that is deleted and created again under the same name has another."""
        return self.raw.metadata.uid if self.raw.metadata else None


@dataclass(frozen=True)
class LeaseAddress:
    """Which Lease, of which cluster, and how it is asked."""

    config: SingleConfig
    namespace: str
    name: str
    request_seconds: float
    lease_seconds: int
    """Assumed where a record does not say how long it lasts."""

    def __str__(self) -> str:
        return f"Lease {self.namespace}/{self.name}"

    def client(self) -> LeaseClient:
        """A client for the event loop of the caller, not yet connected."""
        try:
            return LeaseClient(self)
        except (OSError, ssl.SSLError, ConfigError, msgspec.MsgspecError, ValueError) as error:
            raise ConfigurationError(
                f"the credentials for the Kubernetes API cannot be used ({type(error).__name__}): check the "
                "certificate files and the user that the kubeconfig or the service account names"
            ) from None


class LeaseClient:
    """Asks for one Lease; each method raises `ElectorUnreachable` or `AccessRefused`."""

    def __init__(self, address: LeaseAddress) -> None:
        self._address = address
        timeout = httpx2.Timeout(address.request_seconds)
        self._client = AsyncClient(address.config, namespace=address.namespace, timeout=timeout)

    async def get(self) -> StoredLease | None:
        """The Lease; None where there is none."""
        lease = await self._ask("get", self._client.get(Lease, self._address.name), none_at=404)
        return self._stored(lease)

    async def create(self, record: LeaseRecord) -> StoredLease | None:
        """The Lease that was created; None if somebody else created it."""
        return self._stored(await self._ask("create", self._client.create(self._new(record)), none_at=409))

    async def replace(self, stored: StoredLease, record: LeaseRecord) -> StoredLease | None:
        """The Lease with another record; None if it has changed since `stored`, or is gone."""
        raw = stored.raw
        lease = Lease(metadata=raw.metadata, spec=_spec(raw.spec or LeaseSpec(), record))
        return self._stored(await self._ask("update", self._client.replace(lease), none_at=409))

    async def rehearse(self, record: LeaseRecord) -> None:
        """Ask for all that a hold needs, writes as a dry run: the API server judges them and stores nothing."""
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
            # the client's own limit is for each step of a request; this one is for the whole
            async with asyncio.timeout(self._address.request_seconds):
                return await request
        except httpx2.HTTPStatusError as error:
            if error.response.status_code == none_at:
                return None
            raise self._refusal(verb, error) from error
        except Exception as error:
            raise self._trouble(verb, error) from None

    def _refusal(self, verb: str, error: httpx2.HTTPStatusError) -> MigrationError:
        code, address = error.response.status_code, self._address
        if code in BUSY or code >= 500:
            return ElectorUnreachable(f"the Kubernetes API answers {code} to {verb} {address}")
        if code == 401:
            return AccessRefused(
                f"the Kubernetes API answers 401 to {verb} {address}: it does not accept the credentials. To fix: "
                "mount a fresh service account token, or renew the user of the kubeconfig"
            )
        if code == 403 and "being terminated" in str(error):
            return AccessRefused(f"namespace {address.namespace} is being deleted: no {address} can be created in it")
        if code == 403:
            return AccessRefused(
                f"the Kubernetes API does not allow to {verb} {address} (403): grant the verb {verb!r} on leases of "
                f"coordination.k8s.io there, kubectl apply -n {address.namespace} -f {MANIFEST}, and check that its "
                "resourceNames are MIGRATION_LEASE_NAME"
            )
        if code == 404:
            return AccessRefused(
                f"the Kubernetes API knows no namespace {address.namespace} or no Leases (404): correct "
                "MIGRATION_LEASE_NAMESPACE, or the server of the kubeconfig"
            )
        return AccessRefused(
            f"the Kubernetes API refuses to {verb} {address} ({code}): check MIGRATION_LEASE_NAME, and who else writes "
            "that Lease"
        )

    def _trouble(self, verb: str, error: Exception) -> MigrationError:
        for cause in causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                return AccessRefused(
                    f"the certificate of the Kubernetes API does not verify ({cause.verify_message}): correct the "
                    "certificate-authority of the kubeconfig"
                )
        if isinstance(error, TimeoutError | httpx2.TimeoutException):
            why = f"no answer within {self._address.request_seconds:g} s"
        elif isinstance(error, httpx2.ConnectError):
            why = "no connection; make sure that it runs, and that a NetworkPolicy lets this pod reach it"
        elif isinstance(error, httpx2.HTTPError):
            why = "the connection was cut"
        elif isinstance(error, ConfigError | OSError | AssertionError):
            return AccessRefused(
                f"the credentials for the Kubernetes API cannot be got ({type(error).__name__}): check the token file "
                "or the exec plugin of the kubeconfig's user"
            )
        else:
            # whatever stands between us and the API server answers for it while that is away
            why = f"the answer is no Kubernetes object ({type(error).__name__})"
        return ElectorUnreachable(f"the Kubernetes API was asked to {verb} {self._address}: {why}")


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
