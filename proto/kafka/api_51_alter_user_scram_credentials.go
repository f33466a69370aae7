package kafka

import (
	"bytes"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// alterUserSCRAMCredentials sets and deletes credentials of users.
func alterUserSCRAMCredentials(r *request, m *kmsg.AlterUserSCRAMCredentialsRequest) {
	resp := m.ResponseKind().(*kmsg.AlterUserSCRAMCredentialsResponse)
	tenant := r.c.tenant()
	changes := make([]SCRAMChange, 0, len(m.Deletions)+len(m.Upsertions))
	for _, d := range m.Deletions {
		changes = append(changes, SCRAMChange{User: d.Name, Mechanism: d.Mechanism, Delete: true})
	}
	for i := range m.Upsertions {
		u := &m.Upsertions[i]
		changes = append(changes, SCRAMChange{User: u.Name, Mechanism: u.Mechanism, Iterations: u.Iterations,
			Salt: bytes.Clone(u.Salt), SaltedPassword: bytes.Clone(u.SaltedPassword)}) // m's are views
	}
	tell := func(r *request, results []SCRAMResult) {
		for i := range results {
			out := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
			out.User, out.ErrorCode = results[i].User, int16(results[i].Code)
			if why := results[i].Message; why != "" {
				out.ErrorMessage = &why
			}
			resp.Results = append(resp.Results, out)
		}
		r.respond(resp)
	}
	if !r.c.mayCluster(broker.OperationAlter) {
		tell(r, refusedSCRAM(changes, wire.ClusterAuthorizationFailed))
		return
	}
	l, t := r.c.l, r.ticket()
	l.h.working.Go(func() { // keys are to be made
		l.h.users.AlterSCRAM(tenant, changes, func(results []SCRAMResult) {
			t.later(l, func(r *request) { tell(r, results) })
		})
	})
}

// refusedSCRAM is one answer for all users.
func refusedSCRAM(changes []SCRAMChange, code wire.ErrorCode) (results []SCRAMResult) {
	seen := make(map[string]bool)
	for i := range changes {
		if name := changes[i].User; !seen[name] {
			seen[name] = true
			results = append(results, SCRAMResult{User: name, Code: code})
		}
	}
	return results
}
