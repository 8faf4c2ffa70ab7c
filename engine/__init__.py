"""Requests to versions: the ledger, the store of what is kept, the erasure cycle, snapshots, serving."""
