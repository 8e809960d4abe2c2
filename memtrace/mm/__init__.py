"""The model: to be read beside the kernel's own ``mm/``. It knows no time and does no I/O."""
