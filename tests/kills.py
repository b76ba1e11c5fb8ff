"""Simulate, inside the test process, a process that is killed at one of its changes to a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

CHANGES = ("replace", "unlink", "rmdir", "mkdir", "rename")


class Killed(BaseException):
    """Stands for a kill: no `except Exception` catches it."""


def kill_at(number: int, monkeypatch, action: Callable[[], object], *, keeps_trees: bool = False) -> bool:
    """Run `action` and kill it at the numbered change to a folder; return whether it got that far.

    keeps_trees: shutil.rmtree counts as one change and deletes nothing.
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
