"""The paper, in the order of the notebooks. It knows models, data and evaluation, and no run, notebook or figure."""
