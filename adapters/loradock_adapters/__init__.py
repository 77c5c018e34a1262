"""What is true of a LoRA adapter whether or not a server runs: files, checks, store, registry and training.

Nothing here imports the server, and nothing at module level imports torch.
"""
