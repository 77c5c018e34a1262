"""QLoRA training: a recipe and a base model folder in, a PEFT folder with its manifest out.

`run.train` is the door. `errors`, `recipe`, `data`, `losses`, `progress` and `manifest` need the bare install
only, the rest the extra `train` (torch, transformers, peft, trl, bitsandbytes, matplotlib). Nothing here knows of
servers or registries.
"""
