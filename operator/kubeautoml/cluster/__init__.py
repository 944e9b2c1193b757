"""What a cluster can do, three ways: a real API server, memory (tests), and a laptop."""
