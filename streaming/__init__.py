"""Bytes to requests: wire formats, event sources and the worker loop."""
