// Package sim runs three brokers, each with its journal on a disk that can lose its power, in one process and on one goroutine: loops turn, commits
// are written, messages between the nodes come, and the power goes, when a seeded source of chance says so. What it checks is replication: what was
// acknowledged by all in-sync replicas is there once, in order, on every node.
package sim
