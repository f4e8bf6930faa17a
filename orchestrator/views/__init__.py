"""What is told beyond the database's rows: logs, files, importance; the rules and recipes."""
