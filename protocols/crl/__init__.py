"""CRLs and CA certificates over HTTP: the targets of the distribution points and authority
information in certificates (RFC 5280 sections 4.2.1.13 and 4.2.2.1, RFC 2585)."""
