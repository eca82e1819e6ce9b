"""Ctrl-C that Python drops on its way comes again with the next step of the work."""

import os
import signal
from contextlib import suppress

import pytest
import typer
from tiny import hearing_control_c
from typer.testing import CliRunner

from edgetl.cli.command import Outcome, command, register
from edgetl.cli.control_c import control_c_kept
from edgetl.errors import ExitCode
from edgetl.progress import task


def press_where_it_is_dropped():
    with suppress(KeyboardInterrupt):  # as a destructor does
        os.kill(os.getpid(), signal.SIGINT)


def test_a_dropped_interrupt_comes_again():
    with hearing_control_c(), control_c_kept() as arrive:
        arrive()
        press_where_it_is_dropped()
        with pytest.raises(KeyboardInterrupt):
            arrive()


def test_one_that_arrives_is_raised_at_once_and_the_handler_goes():
    with hearing_control_c():
        with pytest.raises(KeyboardInterrupt), control_c_kept():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ignored_it_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with control_c_kept() as arrive:
            os.kill(os.getpid(), signal.SIGINT)
            arrive()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_command_ends_with_its_next_step():
    steps = []

    def body() -> Outcome:
        with task("working", 10) as advance:
            for number in range(10):
                if number == 3:
                    press_where_it_is_dropped()
                advance(1)
                steps.append(number)
        return Outcome({}, print)

    app = typer.Typer()
    register(app, "work", command()(body))
    with hearing_control_c():
        result = CliRunner().invoke(app, [])
    assert result.exit_code == ExitCode.INTERRUPTED
    assert "Interrupted. Nothing is half written." in result.output
    assert steps == [0, 1, 2]
