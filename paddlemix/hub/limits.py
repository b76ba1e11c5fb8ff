"""How patient a download is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..terminal.sizes import plural
from ..web.request import PassingWebError, WebError

Result = TypeVar("Result")


@dataclass(frozen=True)
class HubLimits:
    """Limits of time and of attempts.

    connect_seconds, read_seconds: to open a connection, to wait for bytes. list_seconds: to list the files of a model
    or to look at one, with list_retries. A file may take any time, but each stall_seconds must bring stall_bytes of it,
    or ten times as many seconds from huggingface_hub, which writes blocks of 10 MB. max_retries: attempts in a row that
    bring less. retry_seconds: pause before the first retry, doubled for each further one, up to max_pause_seconds.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    list_seconds: float = 60.0
    list_retries: int = 2
    stall_seconds: float = 60.0
    stall_bytes: int = 1 << 16
    max_retries: int = 4
    retry_seconds: float = 1.0
    max_pause_seconds: float = 20.0

    @property
    def timeout(self) -> tuple[float, float]:
        return self.connect_seconds, self.read_seconds

    def retry(
        self,
        attempt: Callable[[], Result],
        max_retries: int,
        num_bytes: Callable[[], int] = lambda: 0,
        what: str = "",
    ) -> Result:
        """Return the result of an attempt, repeated after PassingWebErrors. Raises WebError that begins with `what`.

        Failures count anew after an attempt that made num_bytes() grow by stall_bytes.
        """
        most, num_failures = num_bytes(), 0
        while True:
            try:
                return attempt()
            except PassingWebError as error:
                failure = error
            except WebError as error:
                error.args = (f"{what}{error}",)
                raise
            num_failures = 1 if num_bytes() >= most + self.stall_bytes else num_failures + 1
            most = max(most, num_bytes())
            if num_failures > max_retries:
                text = f"{what}{failure} (gave up after {plural(num_failures, 'attempt')} in a row)"
                raise WebError(text, failure.status) from failure
            time.sleep(min(self.retry_seconds * 2 ** (num_failures - 1), self.max_pause_seconds))


DEFAULT_LIMITS = HubLimits()
