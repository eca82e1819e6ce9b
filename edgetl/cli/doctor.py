"""`edgetl doctor`."""

from typing import TYPE_CHECKING

from edgetl.cli.command import Outcome, command
from edgetl.cli.show import lines, table
from edgetl.errors import ExitCode

if TYPE_CHECKING:
    from edgetl.results import Finding


@command()
def doctor() -> Outcome:
    """Say what is installed here and what is wrong with it."""
    from edgetl.steps.doctor import doctor as step
    from edgetl.steps.doctor import has_core_problem

    findings = step()
    code = ExitCode.FIXABLE if has_core_problem(findings) else ExitCode.DONE
    return Outcome(findings, _show, code)


def _show(findings: "tuple[Finding, ...]") -> None:
    table("", ["topic", "status", "found"], [[one.topic, one.status, one.found] for one in findings])
    for one in findings:
        if one.fix:
            lines(f"{one.status}: {one.topic}: {one.found}", f"  fix: {one.fix}")
    problems = sum(one.status == "problem" for one in findings)
    lines("no problems found" if not problems else f"problems found: {problems}")
