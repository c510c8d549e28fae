"""The Leases of one API server and its rules for them: versions, validation, the Status objects of its refusals."""

import json
import re
import threading
import uuid
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str]

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
"""The time format that the API server parses: exactly six digits of a second."""
REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Refusal(Exception):
    """A refused request, with the `Status` object of the answer."""

    def __init__(self, code: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason or REASONS.get(code, "Unknown"),
            "code": code,
        }


@dataclass
class LeaseStore:
    """Every Lease by namespace and name; each change gets the next resourceVersion of the whole store."""

    namespaces: set[str] = field(default_factory=lambda: {"default"})
    _leases: dict[Key, Object] = field(default_factory=dict)
    _version: int = 1000
    _guard: threading.RLock = field(default_factory=threading.RLock)

    def get(self, key: Key) -> Object:
        """Return the Lease, or raise the refusal `NotFound`."""
        with self._guard:
            if key not in self._leases:
                raise Refusal(404, f'leases.coordination.k8s.io "{key[1]}" not found')
            return _copy(self._leases[key])

    def create(self, key: Key, body: Object) -> Object:
        """Store a Lease that does not exist yet."""
        with self._guard:
            if key[0] not in self.namespaces:
                raise Refusal(404, f'namespaces "{key[0]}" not found')
            if body["metadata"].get("resourceVersion"):
                raise Refusal(500, "resourceVersion should not be set on objects to be created")
            _validate(key, body)
            if key in self._leases:
                raise Refusal(409, f'leases.coordination.k8s.io "{key[1]}" already exists', "AlreadyExists")
            created = {"namespace": key[0], "uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z"}
            return self._keep(key, {**body, "metadata": {**body["metadata"], **created}})

    def replace(self, key: Key, body: Object) -> Object:
        """Store a changed Lease; its resourceVersion must be the stored one's."""
        with self._guard:
            given, stored = body["metadata"], self._leases.get(key)
            # the real server creates a missing object, unless the caller names the object that it read
            if stored is None and not given.get("uid"):
                return self.create(key, {**body, "metadata": {**given, "resourceVersion": None}})
            if stored is None or given.get("uid", stored["metadata"]["uid"]) != stored["metadata"]["uid"]:
                raise self._conflict(key, "Precondition failed: UID in precondition and in object meta differ")
            if not given.get("resourceVersion"):
                raise Refusal(422, f'Lease "{key[1]}" is invalid: metadata.resourceVersion: must be specified')
            _validate(key, body)
            if given["resourceVersion"] != stored["metadata"]["resourceVersion"]:
                raise self._conflict(key, "the object has been modified; please apply your changes to the latest one")
            return _copy(stored) if body == stored else self._keep(key, body)

    def copy(self) -> "LeaseStore":
        """Return another store with the same Leases."""
        with self._guard:
            return LeaseStore(self.namespaces, dict(self._leases), self._version)

    def delete(self, key: Key) -> Object:
        """Delete a Lease."""
        with self._guard:
            self.get(key)
            del self._leases[key]
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def edit(self, key: Key, **spec: Any) -> Object:
        """Change fields of the spec, as another client does that has read the newest version."""
        with self._guard:
            lease = self.get(key)
            return self.replace(key, {**lease, "spec": {**lease["spec"], **spec}})

    def annotate(self, key: Key, **annotations: str) -> Object:
        """Change the annotations and not the spec."""
        with self._guard:
            lease = self.get(key)
            return self.replace(key, {**lease, "metadata": {**lease["metadata"], "annotations": annotations}})

    def _keep(self, key: Key, body: Object) -> Object:
        self._version += 1
        lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self._version)}}
        self._leases[key] = _copy(lease)
        return _copy(lease)

    def _conflict(self, key: Key, why: str) -> Refusal:
        return Refusal(
            409, f'Operation cannot be fulfilled on leases.coordination.k8s.io "{key[1]}": {why}', "Conflict"
        )


def decode(key: Key, raw: bytes) -> Object:
    """Return the parsed body of a request, after the checks of the decoder."""
    try:
        body: Object = json.loads(raw)
    except ValueError:
        raise Refusal(400, "couldn't get version/kind; json parse error") from None
    if (body.get("apiVersion"), body.get("kind")) != ("coordination.k8s.io/v1", "Lease"):
        raise Refusal(400, "the API version in the data does not match the expected API version")
    metadata = body.setdefault("metadata", {})
    if key[1] and metadata.get("name") != key[1]:
        raise Refusal(400, "the name of the object does not match the name on the URL")
    if metadata.get("namespace") not in {None, key[0]}:
        raise Refusal(400, "the namespace of the provided object does not match the namespace sent on the request")
    spec = body.setdefault("spec", {})
    for name in ("acquireTime", "renewTime"):
        if spec.get(name) is not None and not MICRO_TIME.fullmatch(spec[name]):
            raise Refusal(400, f'Lease in version "v1" cannot be handled as a Lease: parsing time "{spec[name]}"')
    if not isinstance(spec.get("leaseDurationSeconds", 1), int):
        raise Refusal(400, 'Lease in version "v1" cannot be handled as a Lease: cannot unmarshal number')
    return body


def _validate(key: Key, body: Object) -> None:
    spec, problems = body["spec"], []
    if len(key[1]) > 253 or not SUBDOMAIN.fullmatch(key[1]):
        problems.append("metadata.name: Invalid value: a lowercase RFC 1123 subdomain must consist of")
    if spec.get("leaseDurationSeconds") is not None and spec["leaseDurationSeconds"] <= 0:
        problems.append("spec.leaseDurationSeconds: Invalid value: must be greater than 0")
    if spec.get("leaseTransitions") is not None and spec["leaseTransitions"] < 0:
        problems.append("spec.leaseTransitions: Invalid value: must be greater than or equal to 0")
    if problems:
        raise Refusal(422, f'Lease.coordination.k8s.io "{key[1]}" is invalid: {", ".join(problems)}')


def _copy(lease: Object) -> Object:
    copied: Object = json.loads(json.dumps(lease))
    return copied
