// Package plan says how many nodes a fleet needs, from measurements.
//
// It owns the model of what a node costs (CPU for each kind of event, memory for each kind of thing that it holds, bytes for
// disk and network), the fit of that model to observations, the description of a fleet and the answer. It runs nothing and
// opens no connection: observations come from bench/plan/measure, a live node's counters from package server.
//
// # How the model is built
//
// A Load says what clients do to one node: connections, keep-alives, flows of messages. Load.Events turns it into events per
// second: messages by QoS, bytes, requests. What a message costs is not constant on such a server: where few come, each pays
// for a wake-up of a loop, a read, a write and, if it is kept, a flush of the disk; where many come, they share them. So
// those are events of their own, and how many there are is a function of the rates (sharing.go): arrivals that saturate
// at what a loop or a disk can do. The rest is linear: CPU = sum of cost times events, with costs that are not negative
// (nnls.go), fitted to rungs that differ in one thing at a time, each weighted by its relative error (fit.go).
//
// What the fit is worth is part of the model (check.go): half of the rungs is predicted from the other half and the errors
// are kept, beside what two measurements of one rung differ by, and the whole fit is repeated on resampled rungs, so that every answer has an interval. An answer that
// needs more of something than was measured says so (answer.go).
package plan
