// Package e2e is the end-to-end tests: real clients over real sockets against a node in this process, and the normative statements of
// the MQTT specifications that concern a server, each named by the test that asserts it (see internal/conformance). It owns no product
// code. The node here is engine, core and MQTT handler over a log in memory; what server adds to them is tested there.
package e2e
