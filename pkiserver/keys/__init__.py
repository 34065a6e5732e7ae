"""Key providers: where private keys live. A key is a cryptography key object."""
