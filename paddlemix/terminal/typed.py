"""Typed text whose encoding is not the one that Python expects."""

from __future__ import annotations


def typed_text(text: str, encoding: str) -> str:
    """Return a text that was read with the error handler "surrogateescape" from a stream of an encoding.

    Bytes that the encoding lacks, as those of Chinese in the POSIX locale, are taken as UTF-8. Raises ValueError if
    they are not.
    """
    if text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    written = text.encode(encoding, "surrogateescape")
    try:
        return written.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {written[error.start]:02x} at position {error.start + 1}"
        advice = "set the terminal to UTF-8, or convert the file (iconv -f GBK -t UTF-8 FILE)"
        raise ValueError(f"the text is not UTF-8 ({found}): {advice}") from None
