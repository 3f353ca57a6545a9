"""How fast a message gets from one process to another, ours beside a pipe's and MPI's."""
