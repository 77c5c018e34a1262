"""Drives a running server over HTTP with many adapters, reports per adapter: `python -m loadtest --help`."""
