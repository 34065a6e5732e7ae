"""Real third-party ACME clients against a running server; `pytest interop` runs them."""
