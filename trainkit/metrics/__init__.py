"""Metrics: computed, summarized over replicas, and written."""
