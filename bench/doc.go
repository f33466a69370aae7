// Package bench is a load generator for MQTT and Kafka brokers that verifies what it measures.
//
// It owns the connections, the messages and the histograms of one run, drives any broker from outside by the wire, and
// judges it: every message or record carries its publisher, its number, the time at which it was meant to be sent and a checksum,
// so that loss, duplicates, wrong order and corruption are counted for each publisher and receiver, and latency is
// counted from the intended time. It also measures itself: sends that were late by its own fault are told apart from
// those that the broker held up. It never looks into a broker but by the wire and /proc, and uses nothing of the server's
// own reactor: a fault there must not hide itself.
//
// # How it runs
//
// A loop is one goroutine on a thread of its own with an epoll of its own; Config.Threads of them, one by default, which
// is enough for a million messages a second. A loop owns its connections and everything that hangs on them; the goroutine
// that called Run reaches it by posting functions to its inbox, and reads its tables only once it has stopped. What
// blocks (TLS handshakes) runs on a bounded set of goroutines before a connection enters its loop.
//
// A run is a scenario (scenario_*.go): it connects, calls load or its own steps, and fills a Result. RunMixed (mix.go) has several
// runs, each with loops of its own, begin and end together. Package scenarios reads files that say what to run, ladder looks for
// the rate up to which an objective holds, compare sets results side by side. Package mqttclient is
// the simple blocking client for everything that need not be fast, brokertest a broker with faults to be found.
//
// # Kafka
//
// A connection to a Kafka broker is the same conn on the same loop, with a kconn and a role: a producer or a consumer
// (kafka_*.go). What one producer sends to one partition is a lane, which is to a record what a publisher is to a message.
// Batches are written and read here, not by the server's codec, so that a fault of that shows; a producer costs the generator
// a copy and two checksums for a record. Topics, offsets and producers' ids are asked for on a blocking connection of its own.
package bench
