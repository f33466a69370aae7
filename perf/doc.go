// Package perf holds what must stay true of the broker's costs, as counts in budget.toml, and the tests that measure them. Each
// measures a node in a process of its own, driven over loopback from here, so that the cost of the clients is not in it. How fast it is
// beside others is perf/compare's business.
package perf
