"""Read by format, infer column types, split once."""
