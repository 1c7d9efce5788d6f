"""Columns of a table become the inputs of a model: their kinds, their cells, and scikit-learn's transformers.

A served model takes a copy of this folder along, so its modules import each other and public libraries, never runner.
"""
