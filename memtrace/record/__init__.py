"""Recording on a live machine: which recorder can be used, the snapshots around it, the trace."""
