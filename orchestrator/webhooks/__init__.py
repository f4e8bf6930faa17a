"""Webhooks: what happens to sweeps, told to addresses that users name. See docs/guide-webhooks.md."""
