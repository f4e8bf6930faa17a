"""The orchestrator's loop: shares the cluster out, keeps drivers alive, and does what is asked of
sweeps that nobody drives."""
