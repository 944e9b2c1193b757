"""The pure core: decide what to do about one job."""
