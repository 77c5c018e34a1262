"""LoRA arithmetic on CPU, in place of vLLM's, which lets base rows and adapter rows touch each other."""
