"""Displacement fields: where the content of every frame comes from in the first one."""
