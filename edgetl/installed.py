"""Which packages are installed, and whether they are what edgetl asks for; none of them is imported."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

_REQUIREMENT = re.compile(r"""([\w.-]+)(?:\[[\w, -]*\])?\s*([^;]*)(?:;\s*extra\s*==\s*["']([\w-]+)["'])?""")


@dataclass(frozen=True)
class Requirement:
    """A package that edgetl asks for. `wanted` as in ">=1.23,<1.24"; `extra` is "" for the core."""

    package: str
    wanted: str
    extra: str

    def found(self) -> str | None:
        """The installed version, or None."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


def requirements() -> Iterator[Requirement]:
    """What the installed edgetl asks for, the core first, without what only groups or tests."""
    for line in requires("edgetl") or []:
        match = _REQUIREMENT.match(line)
        if match and match[1] != "edgetl" and match[3] not in ("all", "dev"):
            yield Requirement(match[1], match[2].strip(), match[3] or "")


def satisfies(found: str, wanted: str) -> bool:
    """Whether a version is in a range of >=, >, <=, <, != and == (also with .*), comma separated."""
    return all(_holds(found, clause.strip()) for clause in wanted.split(",") if clause.strip())


def _holds(found: str, clause: str) -> bool:
    match = re.match(r"(>=|<=|==|!=|>|<|~=)\s*(\d+(?:\.\d+)*)(\.\*)?", clause)
    if match is None:
        return True  # a form that edgetl does not use
    operator, bound, prefix = match.groups()
    left, right = _numbers(found), _numbers(bound)
    if prefix:
        left = left[: len(right)]
    width = max(len(left), len(right))
    left, right = left + (0,) * (width - len(left)), right + (0,) * (width - len(right))
    match operator:
        case ">=" | "~=":
            return left >= right
        case "<=":
            return left <= right
        case "==":
            return left == right
        case "!=":
            return left != right
        case ">":
            return left > right
        case _:
            return left < right


def _numbers(text: str) -> tuple[int, ...]:
    """The release numbers of a version: (1, 31, 1) of "1.31.1.post2"."""
    release = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in release[0].split(".")) if release else ()
