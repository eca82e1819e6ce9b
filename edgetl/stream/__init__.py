"""Batch inference that loses nothing: plan, decode, classify, commit; see docs/batch.md."""
