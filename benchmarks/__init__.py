"""Measurements that docs/benchmarks.md reports; each is a command that anyone can run again."""
