// Package api is the control plane's gRPC interface: the messages and services of *.proto, and what `make generate` makes of them. It holds no
// logic. The package control serves it, the command line and any other client call it.
package api
