"""Webhooks: what happens to sweeps, told to addresses of users. See docs/guide-webhooks.md."""
