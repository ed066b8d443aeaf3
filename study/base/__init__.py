"""What every room uses: errors, addresses, command lines, provenance, names, files."""
