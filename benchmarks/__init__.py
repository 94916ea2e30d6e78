"""Measurements that the README quotes; each is a module with a command line of its own."""
