"""The SQL of ACME. Functions on a transaction, named after transitions: each change of status is
compare-and-set and says whether it won. No policy here, and nothing of HTTP."""

from protocols.acme.store import accounts, authorizations, orders, upkeep

__all__ = ["accounts", "authorizations", "orders", "upkeep"]
