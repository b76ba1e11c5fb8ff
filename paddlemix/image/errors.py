"""Errors of images that a user names."""


class ImageError(ValueError):
    """An image cannot be read or used. The text names the image, what was found and what to do."""


class MissingImageError(ImageError):
    """The file of an image does not exist."""
