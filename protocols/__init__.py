"""Protocols: plug-ins on the CA core. Each imports pkiserver, never a sibling."""
