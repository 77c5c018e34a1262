"""Whether LoRADock is right on this machine, by one command: written for those who have a GPU, tested on CPU.

`make gpu-check`. It starts a server, and holds its answers against PEFT, against each other, and against themselves
while adapters come and go; what it found goes into a report.
"""
