"""Certified bounds of neural networks."""
