"""Several runs side by side: two run folders, and studies over a grid of configurations."""
