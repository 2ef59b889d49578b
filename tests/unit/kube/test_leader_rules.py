"""When a follower may take another's Lease, from what it saw and when: no requests here."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.kube.leader import LeaderSettings, Observer

SETTINGS = LeaderSettings(namespace="n", name="l", identity="me", lease_seconds=15, renew_deadline_seconds=10.0)


def spec(renewal: int, *, seconds: int = 15) -> dict[str, Any]:
    return {"holderIdentity": "other", "renewTime": str(renewal), "leaseDurationSeconds": seconds}


def read(observer: Observer, lease: dict[str, Any], at: float) -> None:
    observer.saw(lease, answered=at)


def test_a_lease_that_is_never_renewed_expires_after_its_duration() -> None:
    observer = Observer(SETTINGS)
    for at in range(0, 15, 2):
        read(observer, spec(1), at)
        assert not observer.expired()
    assert observer.remaining(14.0) == 1.0
    read(observer, spec(1), 15.0)
    assert observer.expired()


def test_a_renewal_starts_the_time_anew_from_the_reading_before_it() -> None:
    observer = Observer(SETTINGS)
    read(observer, spec(1), 0.0)
    read(observer, spec(2), 2.0)
    assert observer.remaining(2.0) == 13.0


def test_a_renewal_is_dated_back_by_no_more_than_the_fence_allows() -> None:
    observer = Observer(SETTINGS)
    read(observer, spec(1), 0.0)
    read(observer, spec(2), 9.0)
    assert observer.remaining(9.0) == 15.0 - SETTINGS.slack


def test_a_renewal_after_a_failed_reading_is_not_dated_back() -> None:
    observer = Observer(SETTINGS)
    read(observer, spec(1), 0.0)
    observer.failed()
    read(observer, spec(2), 2.0)
    assert observer.remaining(2.0) == 15.0


def test_time_in_which_the_lease_could_not_be_read_does_not_count() -> None:
    observer = Observer(SETTINGS)
    for at in (0.0, 2.0, 4.0):
        read(observer, spec(1), at)
    observer.failed()
    assert observer.remaining(20.0) == float("inf")
    read(observer, spec(1), 40.0)
    assert not observer.expired()
    assert observer.remaining(40.0) == 11.0


def test_time_in_which_this_process_was_held_up_counts_as_two_periods() -> None:
    observer = Observer(SETTINGS)
    read(observer, spec(1), 0.0)
    read(observer, spec(1), 3_600.0)
    assert observer.remaining(3_600.0) == 11.0


def test_the_duration_that_the_holder_promised_counts() -> None:
    observer = Observer(SETTINGS)
    read(observer, spec(1, seconds=60), 0.0)
    read(observer, spec(2, seconds=60), 2.0)
    assert observer.remaining(2.0) == 60.0, "nothing is known of the fence of a holder with other settings"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"identity": ""}, "identity is empty"),
        ({"retry_seconds": 0.0}, "retry_seconds"),
        ({"retry_seconds": 10.0}, "must be more than retry_seconds"),
        ({"lease_seconds": 11}, "lease_seconds \\(11\\) must be more than"),
    ],
)
def test_settings_under_which_two_could_lead_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeaderSettings(**{"namespace": "n", "name": "l", "identity": "me", **wrong})
