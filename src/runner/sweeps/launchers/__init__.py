"""Where jobs run: processes on this machine, Ray, Slurm; and the slots they share."""
