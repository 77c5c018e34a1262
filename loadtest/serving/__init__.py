"""Ways to serve many fine-tunes of one base, beside each other: memory and throughput for 1, 4 and 16 adapters.

`make bench-serving`. A process of transformers and PEFT for each adapter; a vLLM for each merged model; one LoRADock.
"""
