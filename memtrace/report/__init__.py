"""What we say: reads a run folder's Parquet only, never the simulator."""
