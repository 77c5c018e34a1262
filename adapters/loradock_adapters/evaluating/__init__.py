"""Is an adapter better than its base, and than its base with a good prompt? Asked of a running server, and judged.

What is measured here becomes an `evaluation.Evaluation` of the registry; this package knows no command line.
"""
