// Package server is the composition root: it builds the engine, the core, the journal and the protocols out of a
// configuration, starts, drains and stops them. It is the only package that sees everything, and it holds no logic of a protocol
// or of storage: what is here is wiring.
package server
