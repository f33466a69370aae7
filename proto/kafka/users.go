package kafka

import "github.com/sluicemq/sluice/proto/kafka/wire"

// Users keeps the SCRAM credentials of users, which Kafka's own tools set. Mechanisms have Kafka's numbers. The server implements it; it is safe
// for concurrent use.
type Users interface {
	// DescribeSCRAM says what credentials users of a tenant have, those named or, if that is nobody, all who have any. It may take its time: it is called off the loops.
	DescribeSCRAM(tenant uint32, users []string) []SCRAMUser
	// AlterSCRAM changes credentials of a tenant's users, and makes users of it: those of one user all or none. It may take its time as well. done runs on some goroutine, with a result for each user in the order in
	// which they are named first.
	AlterSCRAM(tenant uint32, changes []SCRAMChange, done func([]SCRAMResult))
}

// SCRAMUser is a user with credentials; without any, there is none who has.
type SCRAMUser struct {
	User        string
	Credentials []SCRAMCredential
}

// SCRAMCredential is what may be told of a credential.
type SCRAMCredential struct {
	Mechanism  int8
	Iterations int32
}

// SCRAMChange sets the credential of one mechanism, or deletes it.
type SCRAMChange struct {
	User           string
	Mechanism      int8
	Delete         bool
	Iterations     int32
	Salt           []byte
	SaltedPassword []byte
}

// SCRAMResult is what came of a user's changes.
type SCRAMResult struct {
	User    string
	Code    wire.ErrorCode
	Message string
}
