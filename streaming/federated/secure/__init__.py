"""Secure sums: a coordinator that sees what all silos together have, and of one silo only noise."""
