"""Offline measurement: data sets, oracles, influence left, reports. Only the command line imports it."""
