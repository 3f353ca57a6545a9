"""How ranks reach each other: clocks, links, channels."""
