// Package topicconfig knows Kafka's topic configuration: each key's name, type, default, bounds, meaning, the broker-wide keys that
// stand behind it, and what Sluice does about it. It owns no state: the catalog in the parent package keeps what users have set,
// the protocols ask here what to show and what to refuse. It never changes a value that it was given.
package topicconfig
