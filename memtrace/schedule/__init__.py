"""When it happens: the only importer of SimPy."""
