"""From the URLs of images to their bytes. No path is opened, and hosts are asked only if the server's owner says so."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

from ..api.beside_loop import beside_loop
from ..api.content import ImageSource
from ..errors import ApiError
from ..protocol import ImageInput
from ..serving import Fetcher
from .data_uri import data_of, is_data_uri


async def load_images(sources: Sequence[ImageSource], fetcher: Fetcher | None) -> tuple[ImageInput, ...]:
    """Return the images of a request in order. Raises ApiError for the first that cannot be had."""
    for source in sources:  # before anything is fetched or decoded
        _check(source, fetcher)
    tasks = [asyncio.ensure_future(_load(source, fetcher)) for source in sources]
    try:
        return tuple(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _load(source: ImageSource, fetcher: Fetcher | None) -> ImageInput:
    if is_data_uri(source.url):
        data = await beside_loop(len(source.url), functools.partial(data_of, source.url, source.param))
        return ImageInput(data, source.is_low_detail)
    try:
        data = await fetcher.fetch(source.url)
    except ApiError as error:
        raise ApiError(
            error.status, error.message, param=source.param, code=error.code, headers=error.headers
        ) from None
    return ImageInput(data, source.is_low_detail)


def _check(source: ImageSource, fetcher: Fetcher | None) -> None:
    if is_data_uri(source.url):
        return
    scheme = source.url[:8].lower()
    if not scheme.startswith(("http://", "https://")):
        raise _refused(source, "is neither a data: URI nor an http(s) URL: send data:image/png;base64,...")
    if fetcher is None:
        raise _refused(
            source,
            "is a URL, and this server fetches no images: send a data: URI, or have its owner start it with "
            "--allow-image-urls HOST",
        )


def _refused(source: ImageSource, text: str) -> ApiError:
    return ApiError(400, f"{source.param} {text}", param=source.param, code="image_url_refused")
