"""Errors of images that a user names."""

EXPECTED = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000 or AVIF"  # the formats that `decode` reads


class ImageError(ValueError):
    """An image cannot be read or used. The text names the image, what was found and what to do."""


class MissingImageError(ImageError):
    """The file of an image does not exist."""
