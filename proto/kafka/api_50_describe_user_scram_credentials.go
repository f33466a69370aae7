package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// describeUserSCRAMCredentials tells which users have credentials of which mechanisms.
func describeUserSCRAMCredentials(r *request, m *kmsg.DescribeUserSCRAMCredentialsRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeUserSCRAMCredentialsResponse)
	tenant := r.c.tenant()
	if !r.c.mayCluster(broker.OperationDescribe) {
		resp.ErrorCode = int16(wire.ClusterAuthorizationFailed)
		r.respond(resp)
		return
	}
	var names []string
	times := make(map[string]int, len(m.Users))
	for i := range m.Users {
		if times[m.Users[i].Name]++; times[m.Users[i].Name] == 1 {
			names = append(names, m.Users[i].Name)
		}
	}
	l, t := r.c.l, r.ticket()
	l.h.working.Go(func() { // there may be many users
		users := l.h.users.DescribeSCRAM(tenant, names)
		resp.Results = make([]kmsg.DescribeUserSCRAMCredentialsResponseResult, len(users))
		for i := range users {
			resp.Results[i] = describedUser(&users[i], times[users[i].User] > 1)
		}
		t.later(l, func(r *request) { r.respond(resp) })
	})
}

func describedUser(u *SCRAMUser, again bool) kmsg.DescribeUserSCRAMCredentialsResponseResult {
	out := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
	out.User = u.User
	refuse := func(code wire.ErrorCode, why string) { out.ErrorCode, out.ErrorMessage = int16(code), &why }
	switch {
	case again:
		refuse(wire.DuplicateResource, "Cannot describe SCRAM credentials for the same user twice in a single request: "+u.User)
	case len(u.Credentials) == 0:
		refuse(wire.ResourceNotFound, "Attempt to describe a user credential that does not exist: "+u.User)
	default:
		for _, c := range u.Credentials {
			info := kmsg.NewDescribeUserSCRAMCredentialsResponseResultCredentialInfo()
			info.Mechanism, info.Iterations = c.Mechanism, c.Iterations
			out.CredentialInfos = append(out.CredentialInfos, info)
		}
	}
	return out
}
