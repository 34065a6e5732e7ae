"""Management of a running PKI."""
