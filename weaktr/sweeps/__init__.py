"""Sweeps: many runs that differ in a few parameters. Read from a file, planned, executed, summed up.

    file → plan → schedule (in pools, or by slurm) → results → tables, reports

A sweep runs the notebooks through the workbench and knows nothing of networks, images or masks: it reads parameters,
manifests, metrics and pixel counts. Only the command line and notebook 06 use this room.
"""
