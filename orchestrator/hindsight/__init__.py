"""Ended sweeps: replayed under another scheduler, and learned from for the next one."""
