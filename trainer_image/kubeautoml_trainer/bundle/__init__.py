"""A saved model: strict, versioned, no pickle."""
