"""Data sets as tensors: where the files come from, and what is done to them.

A loader returns the same tensors wherever the files were found. No model and
no training here.
"""
