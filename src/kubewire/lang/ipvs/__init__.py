"""IPVS as values: virtual servers, their destinations and schedulers; no I/O.

``model`` holds servers, the difference between two states as operations, and which destinations a
packet may get; ``schedulers`` says how a scheduler shares connections out; ``wire`` packs operations
for the kernel and reads what it answers; ``connections`` reads its connection table.
"""
