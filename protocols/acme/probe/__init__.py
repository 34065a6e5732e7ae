"""The side of challenge validation that does input and output: the driver, the port it speaks
through, and the only sockets in the ACME code."""

from protocols.acme.probe.driver import DEFAULT_TIMEOUT, Prober, run
from protocols.acme.probe.network import NetworkProber, ProbeSettings

__all__ = ["DEFAULT_TIMEOUT", "NetworkProber", "ProbeSettings", "Prober", "run"]
