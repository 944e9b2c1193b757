"""Forms of a finished model: refits on all rows, one fast model, a distilled one."""
