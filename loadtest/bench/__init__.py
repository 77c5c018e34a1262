"""The engine benchmark: adapter speed as a share of base speed, measured in one run, stock vLLM beside ours.

`make bench-engine`. Every figure is a ratio of two things measured alternately on the same server, because the
machines it runs on are noisy; absolute numbers are printed beside it and mean little elsewhere.
"""
