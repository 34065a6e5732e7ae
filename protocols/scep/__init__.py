"""RFC 8894 SCEP, with what devices need beyond it."""
