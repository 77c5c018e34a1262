"""The engine side: launching and supervising vLLM, and what runs inside its process.

Only `vllm_compat` and `kernels` import vLLM or torch; everything else here can be tested without them.
"""
