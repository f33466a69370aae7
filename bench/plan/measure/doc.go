// Package measure finds out what a node costs: it runs a fixed set of short, verified loads (rungs) against one, looks at its
// process and its metrics around each, and writes an observation for package plan to fit.
//
// It owns the design of the rungs and nothing of the load itself, which is package bench's. Rungs differ in one thing at a time
// (rate, size, QoS, transport, whether messages are kept), each kind at several levels, so that half of them can be predicted
// from the other half.
package measure
