"""Ctrl-C that Python drops on its way comes again with the next step of the work."""

import os
import signal
from contextlib import suppress
from types import FunctionType

import pytest
import typer
from tiny import hearing_control_c
from typer.testing import CliRunner

from edgetl.cli.command import Outcome, command, register
from edgetl.cli.control_c import ControlC
from edgetl.errors import ExitCode
from edgetl.progress import task


def press_where_it_is_dropped():
    with suppress(KeyboardInterrupt):  # as a destructor does
        os.kill(os.getpid(), signal.SIGINT)


def press_within(module):
    """As if that module called Python back."""
    FunctionType(press.__code__, globals() | {"__name__": module})()


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_a_dropped_interrupt_comes_again():
    control_c = ControlC()
    with hearing_control_c(), control_c.heard():
        control_c.arrive()
        press_where_it_is_dropped()
        with pytest.raises(KeyboardInterrupt):
            control_c.arrive()


def test_within_tensorflow_it_waits_for_the_next_step_once():
    control_c = ControlC()
    with hearing_control_c(), control_c.heard():
        press_within("tensorflow.python.util.nest")
        assert control_c.pressed
        with pytest.raises(KeyboardInterrupt):
            control_c.arrive()
        with pytest.raises(KeyboardInterrupt):
            press_within("tensorflow.python.util.nest")


def test_elsewhere_it_is_raised_at_once_and_the_handler_goes():
    with hearing_control_c():
        with pytest.raises(KeyboardInterrupt), ControlC().heard():
            press_within("importlib._bootstrap")
        with pytest.raises(KeyboardInterrupt), ControlC().heard():
            press()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ignored_it_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    control_c = ControlC()
    try:
        with control_c.heard():
            press()
            control_c.arrive()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert not control_c.pressed
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_that_an_interrupt_became_is_one():
    """As TensorFlow makes a TypeError of it."""

    def body() -> Outcome:
        press_where_it_is_dropped()
        raise TypeError

    assert run(body).exit_code == ExitCode.INTERRUPTED


def run(body):
    """A program with one command, in a terminal."""
    app = typer.Typer()
    register(app, "work", command()(body))
    with hearing_control_c():
        return CliRunner().invoke(app, [])


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

    result = run(body)
    assert result.exit_code == ExitCode.INTERRUPTED
    assert "Interrupted. Nothing is half written." in result.output
    assert steps == [0, 1, 2]
