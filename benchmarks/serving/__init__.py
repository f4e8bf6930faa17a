"""The service with 10,000 trials and 10⁷ points: reads, streams, ingest; and its peers'."""
