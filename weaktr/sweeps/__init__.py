"""Many runs: read a sweep, plan it, run it, put its results together. Nothing else in the package knows it."""
