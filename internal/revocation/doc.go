// Package revocation knows which certificates their authorities have taken back: it reads revocation lists (RFC 5280) from files, and says when the files have changed.
// It asks an OCSP responder (RFC 6960) about a certificate of this node's own, when told to. server has the lists of clients and of callers of the control plane, cluster/cert those between nodes.
package revocation
