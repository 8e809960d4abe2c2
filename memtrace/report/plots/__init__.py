"""One figure a file; each draws from a run folder's tables and says what it shows in one sentence."""
