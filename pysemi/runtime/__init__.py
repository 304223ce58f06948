"""Julia as a program on this machine: which one, what it can do, how it is installed.

Here Julia is looked at from outside, in processes of its own that have a time limit.
Its start inside this process will live here too; solving belongs to ``pysemi.backends``.
"""
