"""Which rows of the audit log belong together: ids along the way from an order to its
certificate."""

from collections.abc import Sequence

from pkiserver.storage import Reader

_AUTHORIZATIONS = (
    "SELECT a.authorization_id FROM acme_order_authorizations a "
    "JOIN acme_orders o ON o.id = a.order_id WHERE o.id = ? OR o.certificate = ?"
)


def related(reader: Reader, name: str) -> Sequence[str]:
    """For an order or a certificate: order, authorizations and certificate. For a challenge: its
    authorization. For anything else: nothing."""
    order = reader.one(
        "SELECT id, certificate FROM acme_orders WHERE id = ? OR certificate = ?", (name, name)
    )
    if order is not None:
        rows = reader.all(_AUTHORIZATIONS, (name, name))
        return [part for part in (*order, *(row[0] for row in rows)) if part is not None]
    challenge = reader.one("SELECT authorization_id FROM acme_challenges WHERE id = ?", (name,))
    return [] if challenge is None else [challenge[0]]
