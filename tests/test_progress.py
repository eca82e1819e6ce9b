"""What is drawn of long work: time left by what this run has done, not by what an earlier one did."""

import io

import pytest

from edgetl.cli import reporter
from edgetl.cli.reporter import Interruptible, PlainReporter, TerminalReporter
from edgetl.progress import REPORTER, standing


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told."""
    now = [1000.0]
    monkeypatch.setattr(reporter.time, "monotonic", lambda: now[0])
    return now


def test_time_left_is_judged_by_what_this_run_did(clock):
    stream = io.StringIO()
    with PlainReporter(stream).task("training", 760, 400) as advance:
        clock[0] += 20
        advance(0)
        advance(10)
    assert stream.getvalue().splitlines() == [
        "training: 410 of 760, about 700 s left",
        "training: 410, 10 of them in 20.0 s",
    ]


def test_nothing_is_said_of_time_left_before_anything_was_done(clock):
    stream = io.StringIO()
    with PlainReporter(stream).task("training", 760, 400) as advance:
        clock[0] += 20
        advance(0)
    assert "left" not in stream.getvalue()


def test_a_bar_begins_where_the_earlier_run_was(monkeypatch):
    from rich.progress import Progress

    begun, added = [], []
    add_task, update = Progress.add_task, Progress.update

    def adding(self, *arguments, **options):
        begun.append(options["completed"])
        return add_task(self, *arguments, **options)

    def updating(self, *arguments, **options):
        added.append(options["advance"])
        return update(self, *arguments, **options)

    monkeypatch.setattr(Progress, "add_task", adding)
    monkeypatch.setattr(Progress, "update", updating)
    with Interruptible(TerminalReporter(), lambda: None).task("training", 760, 400) as advance:
        advance(10)
    assert (begun, added) == ([400], [10])


def test_work_that_tells_where_it_stands_counts_nothing_twice(clock):
    stream = io.StringIO()
    token = REPORTER.set(PlainReporter(stream))
    try:
        with standing("training", 760, 400) as show:
            show(401)
            clock[0] += 20
            show(410)
    finally:
        REPORTER.reset(token)
    assert stream.getvalue().startswith("training: 410 of 760, about 700 s left\n")
