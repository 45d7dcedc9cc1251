"""The reliability suite: each promise of the table in docs/reliability.md is broken on purpose, on a real server.

    python -m tests.reliability --help      the long form, by one command
    scripts/test.sh tests/reliability       the short form, a part of CI

Both are the same functions with other figures; each returns a verdict with the figures that it saw. Reading order,
which is also the order in which the modules may import one another:

result      a promise, the figures seen, and whether it was kept
oracle      texts with answers known beforehand
accounting  the ledger: every request is right, refused or failed, none is lost, wrong, swapped or duplicated
client      HTTP that takes little of the machine, and counts bytes that nobody asked for
stage       a server of the suite's own, as a container runs it
load        requests at a rate or so many at once, in a thread of their own
soak        L1 to L4: below capacity, above it, a burst, an hour
faults      F1 to F3: workers that die, workers that hang, a server that is told to stop
versions    F4: versions come and go
access      F7: keys
malformed   B1 and B3: bad bodies among good ones, good ones in all kinds of company
fuzz        B2: requests made from the server's own OpenAPI document
external    promises that tests outside this folder hold: F5, F6, and the parts of B1 and B2 without a server
plan        what each promise runs in the long form
"""
