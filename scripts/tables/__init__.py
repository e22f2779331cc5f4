"""The tables of README.md and scripts/README.md, each written from a result."""
