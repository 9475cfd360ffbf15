"""The command line: Hydra, signals, streams, messages, progress, sweeps, status, verify.

Nothing in the package imports from here but `mnist_exp.run`. Hydra's private names are in
`hydra_internals` alone.
"""
