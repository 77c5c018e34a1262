"""How fast a registry of many adapters is, on both databases, behind real gateways. `make bench-registry`."""
