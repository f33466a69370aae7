// Package auth says who a client is and what it may do: a password file with argon2id hashes, client certificates, tokens, a directory server or
// another one that is asked, anonymity, a file of rules, and bans. It owns the formats of both files and everything that is remembered of a password; it
// knows no protocol of clients. Neighbours: it implements broker.QuickAuthenticator and broker.Authorizer, server builds it from the
// configuration, and `sluice passwd` writes its file.
//
// Everything that a reload replaces lies in one immutable value (ruleSet) behind one pointer, so that a question is answered by
// the old files or by the new ones, never by a mixture.
package auth
