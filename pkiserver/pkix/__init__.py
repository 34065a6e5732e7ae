"""Sans-IO RFC 5280, RFC 2986 and RFC 7468: names, requests, algorithms, PEM."""
