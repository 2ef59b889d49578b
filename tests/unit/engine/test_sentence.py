"""Schedules as sentences for people."""

from __future__ import annotations

import re
from datetime import datetime
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crons import random_cron
from penstock.api.deployment import Schedule
from penstock.engine.cron import upcoming
from penstock.engine.sentence import sentence


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("* * * * *", "Every minute"),
        ("*/5 * * * *", "Every 5 minutes"),
        ("0,30 * * * *", "Every 30 minutes"),
        ("@hourly", "Every hour"),
        ("17 * * * *", "Every hour at minute 17"),
        ("5,35,50 * * * *", "Every hour at minutes 5, 35 and 50"),
        ("0 */2 * * *", "Every 2 hours from 00:00"),
        ("20 */3 * * *", "Every 3 hours from 00:20"),
        ("30 9-17 * * *", "Every hour from 09:30 to 17:30"),
        ("*/15 8-18 * * mon-fri", "Every 15 minutes from 08:00 to 18:45 on weekdays"),
        ("* 3 * * *", "Every minute from 03:00 to 03:59"),
        ("0 9 * * *", "At 09:00 every day"),
        ("30 9,18 * * *", "At 09:30 and 18:30 every day"),
        ("0 9 * * 1-5", "At 09:00 on weekdays"),
        ("0 9 * * 6,7", "At 09:00 on Saturdays and Sundays"),
        ("0 9 * * mon,wed,fri", "At 09:00 on Mondays, Wednesdays and Fridays"),
        ("@weekly", "At 00:00 on Sundays"),
        ("@monthly", "At 00:00 on day 1 of the month"),
        ("@yearly", "At 00:00 on 1 January"),
        ("0 9 1,15 1,7 *", "At 09:00 on days 1 and 15 of the month in January and July"),
        ("0 9 13 * fri", "At 09:00 on day 13 of the month and also on Fridays"),
        ("0 9 1 1 mon", "At 09:00 on day 1 of the month and also on Mondays, only in January"),
        ("0 9 * mar *", "At 09:00 in March"),
        ("*/5 * * mar mon", "Every 5 minutes on Mondays in March"),
        ("0 9 1 * 0-6", "At 09:00 every day"),
        ("*/7 * * * *", "By the cron expression */7 * * * *"),
        ("1,2,4,8,16,32,59  * * * *", "By the cron expression 1,2,4,8,16,32,59 * * * *"),
        ("0 9 1-31/2 * *", "By the cron expression 0 9 1-31/2 * *"),
        ("0 0 1 1-9 *", "By the cron expression 0 0 1 1-9 *"),
        ("0 1-23/3 * * *", "By the cron expression 0 1-23/3 * * *"),
        ("5,35 8-18 * * *", "By the cron expression 5,35 8-18 * * *"),
    ],
)
def test_common_shapes_are_put_into_words_and_others_quoted(cron: str, words: str) -> None:
    wanted = Schedule.model_validate({"cron": cron, "timeZone": "Europe/Paris"})
    assert sentence(wanted) == f"{words}, Europe/Paris"


@given(st.randoms(use_true_random=False), st.sampled_from(["0,30 9", "*/10 *", "0 */6", "15 9-12", "@", "*/20 8-9"]))
@settings(max_examples=150)
def test_what_a_sentence_says_is_what_runs(random: Random, times: str) -> None:
    cron = random_cron(random)
    wanted = Schedule(cron=cron if times == "@" else " ".join([times, *cron.split()[2:]]), time_zone="UTC")
    text = sentence(wanted).removesuffix(", UTC")
    if text.startswith("By the cron expression "):
        assert text.removeprefix("By the cron expression ") == wanted.cron
        return
    found = [datetime.fromtimestamp(moment, ZoneInfo("UTC")) for moment in upcoming(wanted, 1_780_000_000, 400)]
    if at := re.match(r"At ((?:\d\d:\d\d(?:, | and )?)+)", text):
        assert {moment.strftime("%H:%M") for moment in found} == set(re.findall(r"\d\d:\d\d", at[1]))
    if every := re.match(r"Every (\d+) minutes", text):
        assert {moment.minute for moment in found} == set(range(0, 60, int(every[1])))
    if span := re.search(r"from (\d\d:\d\d) to (\d\d:\d\d)", text):
        assert (min(f"{m:%H:%M}" for m in found), max(f"{m:%H:%M}" for m in found)) == span.groups()
    weekdays = set(re.findall(r"\b([A-Z][a-z]+day)s\b", text)) | (
        {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday"} if "weekdays" in text else set()
    )
    days = set(map(int, re.findall(r"\d+", (re.search(r"on days? (.*?) of the month", text) or [""])[0])))
    months = set(
        re.findall(r"January|February|March|April|May|June|July|August|September|October|November|December", text)
    )
    for moment in found:
        assert not (weekdays or days) or f"{moment:%A}" in weekdays or moment.day in days
        assert not months or f"{moment:%B}" in months
