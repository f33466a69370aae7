package kafka

import (
	"bytes"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// joinGroup has a member take part in its group's next generation.
func joinGroup(r *request, m *kmsg.JoinGroupRequest) {
	resp := m.ResponseKind().(*kmsg.JoinGroupResponse)
	if code := r.c.groupFault(broker.OperationRead, m.Group); code != wire.None {
		resp.ErrorCode, resp.Generation = int16(code), -1
		if m.Version < 7 {
			resp.Protocol = new(string)
		}
		r.respond(resp)
		return
	}
	req := &broker.JoinRequest{Group: m.Group, MemberID: m.MemberID, InstanceID: str(m.InstanceID), ClientID: string(r.clientID),
		ClientHost: r.c.peer(), ProtocolType: m.ProtocolType, Session: millis(m.SessionTimeoutMillis), Rebalance: millis(m.RebalanceTimeoutMillis),
		RequireKnownMember: m.Version >= 4 && m.InstanceID == nil, SkipAssignment: m.Version >= 9}
	if m.Version == 0 {
		req.Rebalance = req.Session
	}
	for i := range m.Protocols {
		req.Protocols = append(req.Protocols, broker.GroupProtocol{Name: m.Protocols[i].Name, Metadata: bytes.Clone(m.Protocols[i].Metadata)})
	}
	l, t := r.c.l, r.ticket()
	l.h.broker.JoinGroup(r.c.tenant(), req, func(res broker.JoinResult) {
		t.later(l, func(r *request) {
			resp.ErrorCode, resp.Generation, resp.LeaderID, resp.MemberID = coordinatorCode(res.Err), res.Generation, res.Leader, res.MemberID
			resp.SkipAssignment = res.SkipAssignment
			resp.Protocol = &res.Protocol
			if res.Err == nil {
				resp.ProtocolType = &res.ProtocolType
			} else if m.Version >= 7 {
				resp.Protocol = nil
			}
			for _, o := range res.Members {
				member := kmsg.NewJoinGroupResponseMember()
				member.MemberID, member.ProtocolMetadata = o.ID, o.Metadata
				if o.InstanceID != "" {
					member.InstanceID = &o.InstanceID
				}
				resp.Members = append(resp.Members, member)
			}
			r.respond(resp)
		})
	})
}

func millis(n int32) time.Duration { return time.Duration(n) * time.Millisecond }

// peer is the client's address as Kafka shows it.
func (c *conn) peer() string {
	a := c.link.RemoteAddr()
	if t, ok := a.(*net.TCPAddr); ok && t != nil {
		return "/" + t.IP.String()
	}
	return "/"
}
