"""Is the model right? Recorded kernels replayed step by step and compared (DESIGN 8)."""
