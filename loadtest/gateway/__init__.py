"""What the gateway costs: wrk against one fake engine, directly and through gateways. `make bench-gateway`."""
