"""What hardware is: chips, links, nodes, racks and fabrics, as data with a source beside each number."""
