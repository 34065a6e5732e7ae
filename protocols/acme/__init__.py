"""RFC 8555 ACME, with RFC 8737, 8738, 9773 and the profiles extension."""
