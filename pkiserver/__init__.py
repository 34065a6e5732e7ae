"""A private-PKI server, embeddable: protocols on one CA core."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pkiserver.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> object:
    """`create_app` is imported when first asked for: codecs can be used without a server."""
    if name == "create_app":
        from pkiserver.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
