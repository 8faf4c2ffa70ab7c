"""Sums over partitions: on one machine, in a pool of processes, or on a Spark cluster, to the same bits."""
