"""Which of several replicas leads: a Lease that one of them holds and renews.

What must not live here: what a leader does. It asks `is_leader`, and its client asks `fence` before every write.

Why at most one leads at a time, without comparing the clocks of two machines:

- A holder counts as leader until `renew_deadline_seconds` after the moment at which it *sent* its last renewal that
  succeeded, by its own clock. From then on it is fenced: it writes nothing until a renewal succeeds again.
- Another one takes the Lease only after it has seen it unchanged for `lease_seconds`, by its own clock. It reads every
  `retry_seconds`; a change that it finds it dates back towards its previous reading, by less than the difference
  between the two times above, so that a killed leader is succeeded `lease_seconds` after its last renewal, not later.
- Every write of the Lease names the resource version that it is based on, so that of two that try only one succeeds.

Why nobody takes over while the API server is away, however long: time in which a follower could not read the Lease does
not count, since the holder could not renew it either. The holder does not give up in that time. It is fenced, and when
the server is back, its next renewal names the last resource version it knows. If that succeeds, nobody had the Lease
meanwhile, and it goes on as if nothing had happened; its caches and watches stay. If it does not, it reads once: only
if the Lease is still its own, in the same term (its earlier renewal had arrived and the answer was lost), it goes on.
Otherwise it has lost, before it has written anything.

What a fence cannot do is recall a request that was sent just before the deadline. Names of children are deterministic
and writes of status carry resource versions, so that such a late write repeats what the successor does, or is refused.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from penstock.kube.client import Client
from penstock.kube.errors import AlreadyExists, ApiError, Conflict, Fenced, NotFound
from penstock.kube.resources import LEASES
from penstock.kube.transport import OnRequest, Provider, Settings, Transport
from penstock.step.values import JsonObject

log = logging.getLogger(__name__)

_SHORTEST_PAUSE = 0.05


def elapsed() -> float:
    """Seconds that have passed since some moment, those included in which the machine was asleep."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderSettings:
    """Who competes for what, and how fast.

    Attributes:
        namespace: of the Lease.
        name: of the Lease.
        identity: this process. No two that can run at once may share it; a pod's name is right, as one that was killed
            and started again in its pod then takes up its own Lease at once.
        lease_seconds: how long a Lease that nobody renews holds off the others; whole seconds. The default keeps the
            promise of 15 seconds with the time that requests take.
        renew_deadline_seconds: how long the holder leads without having renewed it.
        retry_seconds: the time between renewals, and between looks at another's Lease.
    """

    namespace: str
    name: str
    identity: str
    lease_seconds: int = 14
    renew_deadline_seconds: float = 9.0
    retry_seconds: float = 2.0

    def __post_init__(self) -> None:
        if not self.identity:
            raise ValueError("leader election: identity is empty; give each replica a name of its own")
        if not self.retry_seconds > 0 or self.renew_deadline_seconds <= self.retry_seconds:
            raise ValueError(
                f"leader election: renew_deadline_seconds ({self.renew_deadline_seconds:g}) must be more than "
                f"retry_seconds ({self.retry_seconds:g}), and that more than 0"
            )
        if self.slack <= 0:
            raise ValueError(
                f"leader election: lease_seconds ({self.lease_seconds}) must be more than renew_deadline_seconds + "
                f"retry_seconds ({self.renew_deadline_seconds + self.retry_seconds:g})"
            )

    @property
    def slack(self) -> float:
        """How far back a change may be dated so that a fenced holder still stopped `retry_seconds` before the end."""
        return self.lease_seconds - self.renew_deadline_seconds - self.retry_seconds


class Observer:
    """How long another's Lease has not changed, as far as we could see. Pure: times are passed in.

    Args:
        settings: of this replica.
    """

    def __init__(self, settings: LeaderSettings) -> None:
        self._settings = settings
        self._spec: JsonObject | None = None
        self._idle = 0.0
        self._read_at: float | None = None

    def saw(self, spec: JsonObject, *, answered: float) -> None:
        """A reading succeeded.

        Args:
            spec: of the Lease.
            answered: when it came.
        """
        before = self._read_at
        if spec == self._spec:
            # More than two periods between readings means that this process was held up; so may everybody have been.
            self._idle += 0.0 if before is None else min(answered - before, 2 * self._settings.retry_seconds)
        else:
            self._idle = 0.0
            if before is not None and self._spec is not None and _duration(spec) == self._settings.lease_seconds:
                self._idle = min(answered - before, self._settings.slack)
        self._spec = copy.deepcopy(spec)
        self._read_at = answered

    def failed(self) -> None:
        """A reading failed: the time around it does not count."""
        self._read_at = None

    def remaining(self, now: float) -> float:
        """Seconds until a reading may find it expired; endless after one that failed, as time stands still then."""
        if self._read_at is None:
            return math.inf
        return self._lasts() - self._idle - (now - self._read_at)

    def expired(self) -> bool:
        """Whether the Lease had expired at the last reading."""
        return self._idle >= self._lasts()

    def _lasts(self) -> float:
        promised = _duration(self._spec or {})
        return promised if promised > 0 else self._settings.lease_seconds


def election_client(provider: Provider, settings: LeaderSettings, *, on_request: OnRequest | None = None) -> Client:
    """The client that a `Leader` needs: one that fails soon, as the next round is a better second try."""
    limit = (settings.renew_deadline_seconds - settings.retry_seconds) / 2
    once = Settings(tries=1, connect_seconds=limit, request_seconds=limit)
    return Client(Transport(provider, settings=once, on_request=on_request))


_RELEASES = 3
"""How often it is tried to give the Lease back."""


class Leader:
    """Competes for a Lease.

    Args:
        client: makes one try a request and gives up soon (see `election_client`), and is not fenced.
        settings: who competes for what.
        now: the time of day, seconds since the epoch; for people who read the Lease, nothing depends on it.
        clock: seconds from any fixed moment.
        sleep: waits.
    """

    def __init__(
        self,
        client: Client,
        settings: LeaderSettings,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = elapsed,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.settings = settings
        self._client = client
        self._now = now
        self._clock = clock
        self._sleep = sleep
        self._observer = Observer(settings)
        self._held: JsonObject | None = None
        self._deadline = 0.0
        self._leading = asyncio.Event()
        self._following = asyncio.Event()
        self._following.set()
        self._trouble = ""

    def is_leader(self) -> bool:
        """Whether this process may write at this moment."""
        return self._held is not None and self._clock() < self._deadline

    def holds(self) -> bool:
        """Whether this process has the Lease as far as it knows; while the server is away it may not write even so."""
        return self._held is not None

    def fence(self) -> None:
        """For `transport.Transport(fence=…)`.

        Raises:
            Fenced: this process may not write at this moment.
        """
        if not self.is_leader():
            who = "could not renew its Lease in time" if self.holds() else "does not lead"
            raise Fenced(f"{self.settings.identity} {who}: nothing was written")

    async def elected(self) -> None:
        """Wait until this process has the Lease."""
        await self._leading.wait()

    async def deposed(self) -> None:
        """Wait until it has not (any more). What it keeps of the world is then out of date: begin anew."""
        await self._following.wait()

    async def run(self) -> None:
        """Compete until cancelled, then give the Lease back, so that another one takes over at once.

        Cancel it after everything that writes has ended.
        """
        try:
            while True:
                await (self._renew() if self.holds() else self._acquire())
                await self._sleep(self._pause())
        finally:
            await self._release()

    def _pause(self) -> float:
        pause = self.settings.retry_seconds
        if not self.holds():
            pause = min(pause, self._observer.remaining(self._clock()))
        return max(pause, _SHORTEST_PAUSE)

    # Following

    async def _acquire(self) -> None:
        try:
            lease = await self._client.get(LEASES, self.settings.name, self.settings.namespace)
        except NotFound:
            self._observer.failed()
            await self._claim(self._fresh(), create=True)
            return
        except ApiError as error:
            self._observer.failed()
            self._troubled("read", error)
            return
        spec = lease.get("spec") or {}
        self._observer.saw(spec, answered=self._clock())
        if spec.get("holderIdentity") in ("", None, self.settings.identity) or self._observer.expired():
            await self._claim(lease)

    async def _claim(self, lease: JsonObject, *, create: bool = False) -> None:
        spec = lease.get("spec") or {}
        stamp = _micro_time(self._now())
        claimed = {
            **lease,
            "spec": {
                **spec,
                "holderIdentity": self.settings.identity,
                "leaseDurationSeconds": self.settings.lease_seconds,
                "acquireTime": stamp,
                "renewTime": stamp,
                "leaseTransitions": 0 if create else int(spec.get("leaseTransitions") or 0) + 1,
            },
        }
        sent = self._clock()
        try:
            stored = await (self._client.create if create else self._client.replace)(LEASES, claimed)
        except (AlreadyExists, Conflict, NotFound):
            return  # another one was faster; the next look says who
        except ApiError as error:
            self._troubled("take", error)
            return
        self._confirmed(stored, sent)
        self._following.clear()
        self._leading.set()
        log.info("%s leads now", self.settings.identity)

    def _fresh(self) -> JsonObject:
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self.settings.name, "namespace": self.settings.namespace},
        }

    # Leading

    async def _renew(self) -> None:
        assert self._held is not None  # noqa: S101  # `run` has asked
        try:
            try:
                await self._write_renewal(self._held)
            except Conflict:
                current = await self._client.get(LEASES, self.settings.name, self.settings.namespace)
                if not _same_term(self._held, current):
                    self._lose(f"{_holder(current) or 'nobody'} has the Lease")
                    return
                await self._write_renewal(current)
        except NotFound:
            # Whoever deleted it may have let another one lead meanwhile: only a new claim can tell.
            self._lose("the Lease was deleted")
        except Conflict:
            pass  # somebody edits it at this moment; the next round looks again, and the deadline holds
        except ApiError as error:
            self._troubled("renew", error)

    async def _write_renewal(self, lease: JsonObject) -> None:
        renewed = {**lease, "spec": {**lease["spec"], "renewTime": _micro_time(self._now())}}
        sent = self._clock()
        self._confirmed(await self._client.replace(LEASES, renewed), sent)

    def _confirmed(self, stored: JsonObject, sent: float) -> None:
        self._held = stored
        self._deadline = sent + self.settings.renew_deadline_seconds
        if self._trouble:
            log.info("the Lease of %s is renewed again", self.settings.identity)
            self._trouble = ""

    def _lose(self, why: str) -> None:
        log.warning("%s does not lead any more: %s", self.settings.identity, why)
        self._follow()

    def _follow(self) -> None:
        self._held = None
        self._deadline = 0.0
        self._observer = Observer(self.settings)
        self._leading.clear()
        self._following.set()

    async def _release(self) -> None:
        held, trouble = self._held, ""
        if held is None:
            return
        self._follow()
        for _ in range(_RELEASES):
            spec: dict[str, Any] = {**held["spec"], "holderIdentity": "", "renewTime": _micro_time(self._now())}
            try:
                await self._client.replace(LEASES, {**held, "spec": spec})
                return
            except NotFound:
                return
            except Conflict:
                # A renewal that was cut off by the end may have been made all the same.
                current = await self._current()
                if current is None or not _same_term(held, current):
                    log.info("%s had lost its Lease already", self.settings.identity)
                    return
                held = current
            except ApiError as error:  # kopf, which ends at the same time, may just have closed the session
                trouble = error.message
        log.warning("the Lease could not be given back, another replica waits for its end: %s", trouble)

    async def _current(self) -> JsonObject | None:
        try:
            return await self._client.get(LEASES, self.settings.name, self.settings.namespace)
        except ApiError:
            return None

    def _troubled(self, what: str, error: ApiError) -> None:
        """Say it once, not every two seconds."""
        if self._trouble != type(error).__name__:
            self._trouble = type(error).__name__
            log.warning("could not %s the Lease, trying on: %s", what, error.message)


def _same_term(held: JsonObject, current: JsonObject) -> bool:
    """Whether the Lease has had no other holder since: same holder, in the same term."""
    ours, found = held["spec"], current.get("spec") or {}
    return all(ours.get(each) == found.get(each) for each in ("holderIdentity", "leaseTransitions", "acquireTime"))


def _holder(lease: JsonObject) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


def _duration(spec: JsonObject) -> float:
    seconds = spec.get("leaseDurationSeconds")
    return float(seconds) if isinstance(seconds, int) else 0.0


def _micro_time(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
