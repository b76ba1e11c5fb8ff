"""What can be wrong with a row as it stands in its file, told apart so that rows can be counted by it."""


class BadRowError(ValueError):
    """A row is no conversation to train on. kind: what it is counted as."""

    kind = "wrong_row"


class NotJsonError(BadRowError):
    """A row, or a line of a JSON lines file, cannot be read."""

    kind = "not_json"


class UnknownFormatError(BadRowError):
    """A row looks like none of the known formats."""

    kind = "unknown_format"


class UnsupportedKeyError(BadRowError):
    """A row states something that training would have to honor and cannot: a video, tools, a weight of 0.5."""

    kind = "unsupported_key"


class WrongRoleError(BadRowError):
    """A turn is nobody's, or turns do not alternate."""

    kind = "wrong_role"


class EmptyAnswerError(BadRowError):
    """There is nothing to learn from an answer."""

    kind = "empty_answer"


class NoTrainedAnswerError(BadRowError):
    """The row says of each of its answers that it is not trained."""

    kind = "nothing_trained"
