"""LoRADock's server side: the gateway, the engine around vLLM, their telemetry and the command line."""

__version__ = "0.1.0"
