"""What happens to a request: who may ask, which adapter answers, what it cost. Never imports torch or vLLM."""
