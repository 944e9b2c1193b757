"""Objects by URL: file:// and s3://."""
