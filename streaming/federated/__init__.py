"""Forgetting where rows may not be brought together: silos send sums, a coordinator adds them up."""
