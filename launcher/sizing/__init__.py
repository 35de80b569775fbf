"""What a model needs under a DeepSpeed configuration: bytes, traffic, the shortest step, and which candidate fits.

Owns arithmetic alone: it knows models, DeepSpeed's keys and GPUs, and nothing of job or cluster files. From the
bottom: architecture → families → models; zero, activations, states → memory → traffic → ladder → changes.
"""
