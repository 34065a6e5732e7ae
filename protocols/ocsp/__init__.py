"""OCSP over HTTP (RFC 6960 appendix A, RFC 9919): media types, GET and POST forms, caching."""
