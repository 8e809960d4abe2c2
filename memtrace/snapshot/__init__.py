"""Where a replay starts: /proc and /sys files, and exact dumps, read into plain data."""
