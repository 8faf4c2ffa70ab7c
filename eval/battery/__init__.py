"""Offline evaluation of unlearning: any method, beside its controls, with intervals over repeated draws."""
