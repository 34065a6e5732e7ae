"""Cryptographic Message Syntax (RFC 5652), sans-IO: octets and cryptography's objects in and out.

BER is accepted (RFC 5652 asks for no more, and devices send it), DER is emitted. What is outside
the grammar raises `MalformedMessage`; a signature or decryption that fails `PKIError`
BAD_SIGNATURE; an algorithm unknown or too weak BAD_ALGORITHM. Nothing else is raised for bytes.

    ber             BER to definite lengths, bounded, before anything else looks at the message
    content_info    the outermost shell, algorithm identifiers, who signs and who receives
    attributes      signed attributes
    certs_only      certificates and CRLs in a SignedData that nobody signed
    signed_data     signatures: read, verify, make
    enveloped_data  encryption for a certificate, a password or a shared key
"""
