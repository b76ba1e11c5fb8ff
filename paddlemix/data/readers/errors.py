"""The errors of a row in its file, by kind, so that bad rows can be counted by kind."""


class BadRowError(ValueError):
    """A row is not a conversation to train on. kind: a key of `row_note.SKIPPED`."""

    kind = "wrong_row"


class NotJsonError(BadRowError):
    """A row, or a line of a JSON lines file, cannot be read."""

    kind = "not_json"


class UnknownFormatError(BadRowError):
    """A row has none of the known formats."""

    kind = "unknown_format"


class UnsupportedKeyError(BadRowError):
    """A row needs something that training does not support: a video, tools, a weight of 0.5."""

    kind = "unsupported_key"


class WrongRoleError(BadRowError):
    """A turn has an unknown role, or turns do not alternate."""

    kind = "wrong_role"


class EmptyAnswerError(BadRowError):
    """An answer is empty."""

    kind = "empty_answer"


class NoTrainedAnswerError(BadRowError):
    """Every answer of the row is marked as not trained."""

    kind = "nothing_trained"
