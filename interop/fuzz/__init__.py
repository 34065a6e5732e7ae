"""Hostile input for a running server:
`python -m interop.fuzz.run --seconds 600 --targets ocsp,crl`"""
