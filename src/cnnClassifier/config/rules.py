"""Rules that a configuration value must meet; each says in words what it expects."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What a value must be.

    Attributes:
        expectation: in words, to follow "expected".
        holds: tells whether a value meets the rule.
    """

    expectation: str
    holds: Callable[[Any], bool]


def integer(low: int, high: int) -> Rule:
    """Expect a whole number from `low` to `high`, both included."""
    return Rule(
        f"a whole number from {low} to {high}", lambda v: _is_number(v, int) and low <= v <= high
    )


def number(low: float, high: float) -> Rule:
    """Expect a number from `low` to `high`, both included."""
    return Rule(
        f"a number from {low:g} to {high:g}",
        lambda v: _is_number(v, int, float) and low <= v <= high,
    )


def flag() -> Rule:
    """Expect True or False."""
    return Rule("True or False", lambda v: isinstance(v, bool))


def text() -> Rule:
    """Expect a string that isn't blank."""
    return Rule("text", lambda v: isinstance(v, str) and bool(v.strip()))


def choice(*values: str) -> Rule:
    """Expect one of `values`."""
    return Rule(f"one of {', '.join(values)}", lambda v: isinstance(v, str) and v in values)


def sha256() -> Rule:
    """Expect 64 hexadecimal digits."""
    return Rule(
        "64 hexadecimal digits",
        lambda v: isinstance(v, str) and bool(re.fullmatch("[0-9a-fA-F]{64}", v)),
    )


def pattern(group: str) -> Rule:
    """Expect a regular expression that has the named group `group`."""

    def holds(value: Any) -> bool:
        try:
            return isinstance(value, str) and group in re.compile(value).groupindex
        except re.error:
            return False

    return Rule(f"a regular expression with a group (?P<{group}>…)", holds)


def rate() -> Rule:
    """Expect a number of requests in a time, such as `600/minute`."""
    wanted = "[1-9][0-9]{0,8}/(second|minute|hour|day)"
    return Rule(
        "a rate such as 600/minute", lambda v: isinstance(v, str) and bool(re.fullmatch(wanted, v))
    )


def optional(rule: Rule) -> Rule:
    """Expect null or what `rule` expects."""
    return Rule(f"{rule.expectation}, or null", lambda v: v is None or rule.holds(v))


def listing(rule: Rule, low: int = 0, high: int = 1000) -> Rule:
    """Expect a list of `low` to `high` items that meet `rule`."""
    count = f"{low} " if low == high else "" if low == 0 else f"{low} or more "
    return Rule(
        f"a list; its {count}items: {rule.expectation}",
        lambda v: (
            isinstance(v, list) and low <= len(v) <= high and all(rule.holds(item) for item in v)
        ),
    )


def mapping(rule: Rule) -> Rule:
    """Expect names with values that meet `rule`."""
    return Rule(
        f"names with values, each {rule.expectation}",
        lambda v: (
            isinstance(v, dict)
            and all(isinstance(k, str) and rule.holds(item) for k, item in v.items())
            and bool(v)
        ),
    )


def span(rule: Rule) -> Rule:
    """Expect null, a list of different values that meet `rule`, or the lowest and highest of many numbers."""

    def holds(value: Any) -> bool:
        if isinstance(value, list):
            return (
                bool(value)
                and all(map(rule.holds, value))
                and all(v not in value[:n] for n, v in enumerate(value))
            )
        return value is None or (isinstance(value, dict) and _is_range(value, rule))

    ends = (
        ", or {low, high} with log: true or a step"
        if rule.holds(1) and not rule.holds(True)
        else ""
    )
    return Rule(f"null, or a list of different values{ends}, each {rule.expectation}", holds)


def _is_range(value: dict[str, Any], rule: Rule) -> bool:
    if not {"low", "high"} <= set(value) <= {"low", "high", "log", "step"}:
        return False
    low, high, log, step = (
        value["low"],
        value["high"],
        value.get("log", False),
        value.get("step", 1e-9),
    )
    return (
        all(_is_number(v, int, float) for v in (low, high, step))
        and isinstance(log, bool)
        and rule.holds(low)
        and rule.holds(high)
        and low < high
        and 0 < step <= high - low
        and not (log and ("step" in value or low <= 0))
        and not (is_whole(rule) and "step" in value and not isinstance(step, int))
    )


def is_whole(rule: Rule) -> bool:
    """Tell whether a rule for numbers takes whole ones alone."""
    return not any(rule.holds(value) for value in (0.5, 1.5, 1e-7))


def storage() -> Rule:
    """Expect the URL of a database or of a journal file."""
    wanted = r"(sqlite:///.+|journal:///.+|postgresql(\+\w+)?://.+)"
    return Rule(
        "sqlite:///PATH, journal:///PATH or postgresql://…",
        lambda v: isinstance(v, str) and bool(re.fullmatch(wanted, v)),
    )


def shares() -> Rule:
    """Expect the shares of train, validation and test: three numbers above 0 that sum to 1."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) == 3
            and all(_is_number(share, int, float) and 0 < share < 1 for share in value)
            and abs(sum(value) - 1) < 1e-6
        )

    return Rule("three numbers above 0 that sum to 1: train, validation, test", holds)


def image_size() -> Rule:
    """Expect height, width and the 3 channels of an image."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) == 3
            and all(_is_number(side, int) and 32 <= side <= 1024 for side in value[:2])
            and value[2] == 3
        )

    return Rule("[height, width, 3], sides from 32 to 1024", holds)


def window(*names: str) -> Rule:
    """Expect one of `names`, or centre and width of a window in HU."""

    def holds(value: Any) -> bool:
        if isinstance(value, list):
            return (
                len(value) == 2
                and all(_is_number(v, int, float) for v in value)
                and abs(value[0]) <= 10**6
                and 1 <= value[1] <= 10**6
            )
        return isinstance(value, str) and value in names

    return Rule(f"one of {', '.join(names)}, or [centre, width] in HU", holds)


def _is_number(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
