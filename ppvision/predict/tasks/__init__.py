"""Tasks: what turns inputs into results, one file each."""
