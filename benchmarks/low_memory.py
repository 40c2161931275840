"""What does the low-memory mode save on a large image, and what does it cost? A training step, 768×768, batch 1.

    .venv/bin/python benchmarks/low_memory.py [image size]

The network that keeps L·H maps of N×N is what the low-memory mode is held against.
"""

import sys

from cam_step import make_step
from side_by_side import measure, measure_memory

WAYS = {"maps kept": "kept", "low memory": "remade"}


def main(size=768):
    """Float32: in bfloat16 maps are as large on a GPU, since it forms a softmax in float32."""
    ways = {label: (way, size, 1, "fp32") for label, way in WAYS.items()}
    measure_memory(make_step, ways, name=f"low_memory_{size}")
    measure({label: make_step(*way) for label, way in ways.items()}, rounds=2, name=f"low_memory_step_{size}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
