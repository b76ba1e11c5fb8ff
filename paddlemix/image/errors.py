"""What goes wrong with a picture that somebody named."""


class ImageError(ValueError):
    """A picture cannot be read or used; the message names the picture, what was found and what to do."""


class MissingImageError(ImageError):
    """There is no such file."""
