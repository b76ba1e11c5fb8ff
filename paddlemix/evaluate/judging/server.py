"""The address and the key of a judge's server."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

OPENAI = "https://api.openai.com/v1"
PATH = "/chat/completions"


@dataclass(frozen=True)
class Server:
    """A chat endpoint. url: with its path. key: "" for none."""

    url: str
    key: str = field(default="", repr=False)

    @classmethod
    def of(cls, base_url: str, key: str) -> Server:
        """Return the server at a base URL, of OpenAI without one. Raises ValueError if one of them cannot be used."""
        base = (base_url.strip() or OPENAI).rstrip("/").removesuffix(PATH)
        try:
            parts = urlsplit(base)
            is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number
            is_usable = False
        # The text is not shown: it may have a password.
        if not is_usable or "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "the judge's base URL cannot be used: expected http:// or https://, a host and a path like /v1, and no "
                "user, password, ? or #; check OPENAI_BASE_URL or --judge-url"
            )
        key = key.strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ValueError("the judge's key has characters that no key has, as spaces: check OPENAI_API_KEY")
        if base == OPENAI and not key:
            raise ValueError(
                f"there is no key for {OPENAI}: set OPENAI_API_KEY, or set OPENAI_BASE_URL (or "
                "--judge-url) to the server of your judge"
            )
        return cls(base + PATH, key)

    def headers(self) -> dict[str, str]:
        """Return the headers of a request."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "paddlemix (judge)"}
        return {**headers, "Authorization": f"Bearer {self.key}"} if self.key else headers

    def shown(self, text: str) -> str:
        """Return a text of the server without the key."""
        return text.replace(self.key, "***") if self.key else text
