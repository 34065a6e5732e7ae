"""Listeners, connections and worker processes; `pkiserver.server` is its public face."""
