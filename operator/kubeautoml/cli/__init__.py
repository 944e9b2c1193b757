"""The kubeautoml command, one verb a file."""
