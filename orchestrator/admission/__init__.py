"""What decides whether a sweep may run, and says beforehand what it would take."""
