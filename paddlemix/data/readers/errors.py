"""The errors of a row in its file, by kind, so that bad rows can be counted by kind."""


class BadRowError(ValueError):
    """A row is not a conversation to train on. kind: a key of `row_note.SKIPPED`."""

    def __init__(self, text: str, kind: str = "wrong_row"):
        super().__init__(text)
        self.kind = kind


class TooFewImagesError(BadRowError):
    """A row has more image marks than images, so one of its keys may have the wrong name."""


class UnsupportedKeyError(BadRowError):
    """A row needs something that training does not support: a video, tools, a weight of 0.5."""

    def __init__(self, text: str):
        super().__init__(text, "unsupported_key")
