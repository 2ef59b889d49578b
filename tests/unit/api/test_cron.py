"""Cron expressions and time zones: what is taken, what it means, how the rest is refused."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crons import random_cron
from penstock.api.cron import WORDS, CronError, cron_problem, parse, time_zone_problem


@pytest.mark.parametrize(
    "cron",
    [
        "0 9 * * *",
        "*/5 0-6,12 1-31/2 jan-dec mon-fri",
        "@monthly",
        "0 0 29 2 *",
        "0 0 31 2 1",
        "00 09 * * 7",
        " 0\t9  * * SUN ",
        "0 0 1-31/2 * mon",
        "*/59 */23 * * *",
        *WORDS,
    ],
)
def test_expressions_that_are_taken(cron: str) -> None:
    assert cron_problem(cron) is None


@given(st.randoms(use_true_random=False))
def test_every_shape_is_taken(random: Random) -> None:
    text = random_cron(random)
    assert cron_problem(text) is None, text


def test_the_values_of_fields() -> None:
    cron = parse("*/20 8-10,12 1-10/4,2 Feb,DEC 5-7")
    assert (cron.minutes, cron.hours, cron.days) == ((0, 20, 40), (8, 9, 10, 12), (1, 2, 5, 9))
    assert (cron.months, cron.weekdays, cron.free_minute) == ((2, 12), (0, 5, 6), True)
    any_day = parse("0-59 * * * *")
    assert (any_day.days, any_day.weekdays, any_day.free_minute) == (None, None, False)
    assert any_day.minutes == tuple(range(60))
    assert parse("0 0 * * */2").weekdays == (0, 2, 4, 6)
    assert parse("@annually") == parse("@yearly") == parse("0 0 1 1 *")
    assert parse("@midnight") == parse("@daily")


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 9 * *", "wanted 5 fields (minute, hour, day of month, month, day of week), got 4"),
        ("", "got 0"),
        ("0 0 9 * * *", "got 6: there are no seconds or years here"),
        ("60 * * * *", '"60" is not valid as minute (field 1 of "60 * * * *"): wanted 0-59'),
        ("H * * * *", '"H" is not valid as minute'),
        ("H(0-5) * * * *", "the signs ( ) are not used here"),
        ("0 R * * *", '"R" is not valid as hour'),
        ("0 0 ? * *", '"?" is not valid as day of month'),
        ("0 0 L * *", '"L" is not valid as day of month'),
        ("0 0 15W * *", '"15W" is not valid as day of month'),
        ("0 0 * * 5#2", '"5#2" is not valid as day of week'),
        ("0 0 * 13 *", '"13" is not valid as month (field 4 of "0 0 * 13 *"): wanted 1-12 or jan-dec'),
        ("0 0 * 0 *", '"0" is not valid as month'),
        ("0 0 * * funday", '"funday" is not valid as day of week'),
        ("0 mon * * *", '"mon" is not valid as hour'),
        ("\u0663 * * * *", "is not valid as minute"),
        ("1,,2 * * * *", '"1,,2" is not valid as minute'),
        ("5-1 * * * *", '"5-1" is not valid as minute (field 1 of "5-1 * * * *"): a range goes up, write 5-59,0-1'),
        ("0 0 * * fri-sun", "a range goes up, write fri-sat,sun"),
        ("0 0 * * fri-mon", "a range goes up, write fri-sat,sun-mon"),
        ("0 0 * * 5-1", "a range goes up, write 5-6,0-1"),
        ("5/15 * * * *", "a step needs a range, write 5-59/15"),
        ("*/0 * * * *", '"*/0" is not valid as minute'),
        ("*/90 * * * *", "the step is 0 or longer than the range: wanted 1-59, or no step"),
        ("*/20,5 * * * *", "`*` is no part of a range or list, write 0-59"),
        ("*-5 * * * *", "`*` is no part of a range or list, write 0-59"),
        ("0 0 */2 * mon", "is read in two ways: write 1-31/2 for days that fit one of the two fields"),
        ("0 0 1 * */2", "is read in two ways: write 0-6/2 for days"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 feb,apr,11 *", "never comes"),
        ("CRON_TZ=UTC 0 9 * * *", "set the field `timeZone` instead"),
        ("@dayly", 'did you mean "@daily"?'),
        ("@reboot", "wanted one of @hourly"),
        ("@every 5m", "wanted one of @hourly"),
    ],
)
def test_expressions_that_are_refused_name_field_and_remedy(cron: str, message: str) -> None:
    assert message in (cron_problem(cron) or "")


@given(st.text(alphabet="0159*/-,@ Lfrimon#?\n", max_size=20) | st.text(max_size=20))
def test_any_text_is_taken_or_refused_in_words(text: str) -> None:
    problem = cron_problem(text)
    try:
        parse(text)
    except CronError as error:
        assert str(error) == problem
    else:
        assert problem is None


def test_time_zones() -> None:
    assert time_zone_problem("UTC") is None
    assert time_zone_problem("Europe/Paris") is None
    assert "wanted an IANA name" in (time_zone_problem("CEST+1") or "")
    assert 'did you mean "Europe/Paris"?' in (time_zone_problem("europe/paris") or "")
    assert "is not a time zone" in (time_zone_problem("../../etc/passwd") or "")


def test_a_manifest_with_a_schedule_is_checked_without_loading_croniter() -> None:
    # It takes a tenth of a second, which `penstock --help` and `penstock lint` would wait for.
    program = """if True:
        import sys
        import penstock.cli.main, penstock.engine.schedule, penstock.engine.sentence
        from penstock.api.manifest import load
        text = "apiVersion: penstock.dev/v1alpha1\\nkind: Deployment\\nmetadata: {name: a}\\n"
        (document,) = load(text + "spec: {pipeline: {name: a}, schedule: {cron: 0 9 * * *}}\\n")
        print(document.problems, "croniter" in sys.modules)
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[0] == "() False"
