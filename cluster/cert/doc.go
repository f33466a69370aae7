// Package cert makes, loads and checks the certificates by which the nodes of a cluster know each other: an authority of the cluster's
// own, and one certificate a node, whose name carries the node's id. It opens no connection. cluster/link shows and checks what it loads,
// cmd/sluice makes them.
//
// What names a node is the URI sluice:node:ID among the certificate's alternative names, and nothing else: neither the common name nor
// the address that somebody came from.
package cert
