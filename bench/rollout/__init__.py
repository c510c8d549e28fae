"""`./dev rollout`: a new release replaces an old one under load, then the old one returns; what do the clients notice?

A ledger with many postings, instances of release 1 behind haproxy, and a load generator that sends requests at a
constant rate, whether or not the earlier ones were answered. Then, one instance at a time, release 2 replaces
release 1 (its first instance migrates), and release 1 replaces release 2 on the newer schema; `downgrade` removes what
release 2 added. `scenario` is that order, `variant` what differs between this project and the usual recipe, `outcome`
the figures.
"""
