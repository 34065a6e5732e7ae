"""EST, Enrollment over Secure Transport (RFC 7030, clarified by RFC 8951)."""
