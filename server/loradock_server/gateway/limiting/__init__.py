"""Limits of API keys and adapters: who may ask for more right now, and how gateways share what is taken."""
