"""The result of a check, and the list of them. Needs no paddle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "FAILED", "skipped"
RANKS = (SKIPPED, OK, WARNING, FAILED)


@dataclass
class Check:
    """One check. facts: lines on what was found. advice: lines on what to do. values: the facts for a program."""

    name: str
    status: str = OK
    facts: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def say(self, fact: str) -> None:
        """Add a fact without changing the status."""
        self.facts.append(fact)

    def warn(self, fact: str, *advice: str) -> None:
        self._raise_status(WARNING, fact, advice)

    def fail(self, fact: str, *advice: str) -> None:
        self._raise_status(FAILED, fact, advice)

    def skip(self, fact: str) -> None:
        self.status = SKIPPED
        self.facts.append(fact)

    def _raise_status(self, status: str, fact: str, advice: tuple[str, ...]) -> None:
        self.status = max(self.status, status, key=RANKS.index)
        self.facts.append(fact)
        self.advice += [one for one in advice if one not in self.advice]


@dataclass
class Diagnosis:
    """The checks of a run or a device, in their order. plan: for which cards, where this machine has none of them."""

    checks: list[Check] = field(default_factory=list)
    plan: str | None = None

    @property
    def has_failed(self) -> bool:
        return bool(self.names(FAILED))

    def names(self, status: str) -> list[str]:
        """Return the names of the checks with a status."""
        return [check.name for check in self.checks if check.status == status]

    @contextmanager
    def check(self, name: str, *, is_notice_warned: bool = True) -> Iterator[Check]:
        """Add a check. An exception in the block is its failure; notices are its warnings, or else its facts."""
        check = Check(name)
        self.checks.append(check)
        with _notices(check.warn if is_notice_warned else check.say):
            try:
                yield check
            except (ValueError, OSError, ImportError) as error:
                check.fail(str(error))

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        checks = [
            {"name": one.name, "status": one.status, "facts": one.facts, "advice": one.advice, **one.values}
            for one in self.checks
        ]
        return {"has_failed": self.has_failed, "plan": self.plan, "checks": checks}


class _Collector(logging.Handler):
    def __init__(self, add: Callable[[str], None]):
        super().__init__()
        self.add = add

    def emit(self, record: logging.LogRecord) -> None:
        if not vars(record).get("is_progress"):
            self.add(record.getMessage())


@contextmanager
def _notices(add: Callable[[str], None]) -> Iterator[None]:
    """Pass the package's notices to a function instead of printing them."""
    logger, collector = logging.getLogger("paddlemix"), _Collector(add)
    was_passed_on = logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.propagate = was_passed_on
