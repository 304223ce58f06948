"""The Julia backend: DifferentialEquations.jl solves, SciMLSensitivity.jl differentiates.

``backend.py`` tells the story of a solve; ``fields.py`` holds the two ways in which Julia
evaluates a vector field, ``settings.py`` puts what was asked for into Julia's words.
"""

from __future__ import annotations

from pysemi.backends.julia.backend import JuliaBackend

__all__ = ["JuliaBackend"]
