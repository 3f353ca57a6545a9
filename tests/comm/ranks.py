"""What the spawned ranks of the tests do. Imported by name, so that processes can be spawned."""
