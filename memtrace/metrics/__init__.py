"""What was measured: tables, the recorder that fills them, and the run folder."""
