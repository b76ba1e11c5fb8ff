"""A process that ends at any of its changes of folders, played inside the test's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

CHANGES = ("replace", "unlink", "rmdir", "mkdir", "rename")


class Killed(BaseException):
    """What stands for a process that ends at once."""


def stopped_at(number: int, monkeypatch, action: Callable[[], object], *, keeps_trees: bool = False) -> bool:
    """Act, and end at the numbered change of a folder; tell if it came to that.

    keeps_trees: shutil.rmtree counts as one change that never comes to be.
    """
    count = 0

    def counted(function):
        def call(*values, **options):
            nonlocal count
            count += 1
            if count == number:
                raise Killed
            return function(*values, **options)

        return call

    with monkeypatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, counted(getattr(os, name)))
        if keeps_trees:
            patch.setattr(shutil, "rmtree", counted(lambda path, **_: None))
        try:
            action()
        except Killed:
            return True
    return False
