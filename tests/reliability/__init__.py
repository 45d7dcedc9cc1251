"""The reliability suite: the scenarios of docs/reliability.md, as load and faults on a real server.

    python -m tests.reliability --help      the long form, by one command
    scripts/test.sh tests/reliability       the short form, a part of CI

Both are the same functions with other parameters; each returns its figures and which invariants hold. Reading order,
which is also the order in which the modules may import one another:

result      the result of a scenario: its figures, and whether its invariants hold
oracle      texts with answers computed before the run
accounting  the account of requests: each is right, refused or failed, none is lost, wrong, swapped or duplicated
server      the server of the scenarios, as a container runs it
load        the benchmark's load generator with a ledger of its requests
soak        L1 to L4: load below capacity, above it, in a burst, for an hour
surroundings  F8, F9, F11: a full disk, a network that loses packets, a broken archive
threads     every thread of a process but one stopped and let go on
faults      F1 to F3: killed workers, hung workers, a server that is stopped
process_faults  F1, F2 and L3 of the standalone server, whose worker is the server itself
versions    F4: versions of a model change under load
access      F7: keys
memory      F12: the memory of the server's control group ends
clock       F13: the clock of the system jumps
gateway_link  F14: a slow network with losses between gateway and server
neighbours  L5: two models, one of them overloaded
connections  F10: clients that send nothing, send slowly or do not read
malformed   B1 and B3: bad requests among good ones, the same texts in other batches
fuzz        B2: requests generated from the server's own OpenAPI document
external    scenarios that tests outside this folder cover: F5, F6, and the parts of B1 and B2 without a server
ray_cluster  deploy/ray on two nodes, of which one is killed under load
plan        the long form: what each scenario runs
"""
