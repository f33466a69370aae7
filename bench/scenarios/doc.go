// Package scenarios reads scenario files: which loads a run of the load generator makes, with which settings, and how a ladder
// climbs.
//
// It owns the form of the files, the table of settings (which the flags of sluice bench are made of, so that a flag and a key
// are one thing), and the standard files, which are embedded. Every fault of a file is reported with line and column. It makes no
// load: package bench does, and package bench/ladder climbs.
//
// # A file
//
//	name: fan-in
//	about: 1,000 devices, one subscriber to all of them
//	protocol: mqtt            # mqtt, kafka, or mixed
//	load: fanin               # one of bench.Scenarios or bench.KafkaScenarios
//	transport: tcp            # tcp, tls, ws, wss; left out: as the address says
//	settings:                 # the flags of sluice bench mqtt, or kafka
//	  publishers: 1000
//	  rate: 20000
//	ladder:                   # for sluice bench ladder
//	  objective: p99 < 5ms
//	  from: 2000
//	  to: 200000
//
// A mixed file has parts instead of a load, which run at the same time, each with a name, a protocol, a load, a transport and
// settings of its own; its own settings are those that all parts begin with.
package scenarios
