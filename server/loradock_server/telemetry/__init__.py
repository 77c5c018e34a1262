"""Names and instruments of what LoRADock reports: metrics, spans, log lines. Knows neither HTTP nor vLLM."""
