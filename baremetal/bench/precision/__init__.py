"""The same training in 32, 16, 8 and 4 bits: what it learns, and what it would save."""
