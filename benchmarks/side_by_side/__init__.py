"""pysemi beside torchdiffeq, torchode and Diffrax: the same problems, each package at its best.

What ``bench.py`` runs. :mod:`.problems` says what is solved, in NumPy; ``by_*.py`` say how each
package solves it, in a process of its own (:mod:`.worker`); :mod:`.measure` checks and times
them in turn; :mod:`.report` and :mod:`.targets` make tables of the rows. Nothing of this is
imported by pysemi.
"""
