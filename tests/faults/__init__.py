"""What happens when things die: cases that break winnow on purpose, and an oracle that looks after.

`python -m tests.faults` runs everything (`make faults`), the `test_*.py` files here a small part of
it in `make test`. Nothing in the product knows of these tests: `hooks.py` patches the processes
that are under test, from outside.

    journal.py      what a process was told: one flushed line a commit
    hooks.py        writes that journal, and ends (or stops, or starves) a process at a named point
    oracle.py       compares journals, workers' own notes and the database after each case
    isolate.py      one process tree a case, and what is left of it afterwards
    simulated.py    sweeps on simulated workers, driven by the real Study and the real Orchestrator
    servers.py      SQLite files, and a PostgreSQL server that can be restarted or cut off
    families/       the cases, one module a family
    report.py       docs/reliability.md, from the results
"""
