"""Predictions over HTTP: bodies become inputs, requests that wait become batches, predictions become JSON or CSV."""
