"""Does the project run on a GPU, how fast, and in how much memory: `lab.gpu.check`. See docs/gpu.md.

Each part is a module: A restoring, B steps, C learning, D personal_steps, E determinism, F host and
host_diffbir, G compiling, H controlling.
"""
