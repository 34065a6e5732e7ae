"""Helpers of the HTTP edge."""
