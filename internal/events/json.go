package events

import (
	"encoding/json"
	"net/netip"
)

// shown is an event as JSON. What a kind does not have is left out; what it has is there, whatever its value.
type shown struct {
	Event          string  `json:"event"`
	At             int64   `json:"at"`
	Node           int     `json:"node"`
	ClientID       string  `json:"client_id"`
	User           *string `json:"user,omitempty"`
	Address        *string `json:"address,omitempty"`
	Listener       *string `json:"listener,omitempty"`
	Protocol       *string `json:"protocol,omitempty"`
	TLS            *bool   `json:"tls,omitempty"`
	Connection     uint64  `json:"connection,omitempty"`
	CleanStart     *bool   `json:"clean_start,omitempty"`
	SessionPresent *bool   `json:"session_present,omitempty"`
	KeepAlive      *uint16 `json:"keep_alive,omitempty"`
	SessionExpiry  *int64  `json:"session_expiry,omitempty"`
	Will           *bool   `json:"will,omitempty"`
	By             string  `json:"by,omitempty"`
	ReasonCode     *uint8  `json:"reason_code,omitempty"`
	Reason         string  `json:"reason,omitempty"`
	Detail         string  `json:"detail,omitempty"`
	ConnectedMS    *int64  `json:"connected_ms,omitempty"`
	BytesIn        *uint64 `json:"bytes_in,omitempty"`
	BytesOut       *uint64 `json:"bytes_out,omitempty"`
	Filter         *string `json:"filter,omitempty"`
	Group          string  `json:"group,omitempty"`
	QoS            *uint8  `json:"qos,omitempty"`
	NoLocal        *bool   `json:"no_local,omitempty"`
}

// JSON is the event as one object of JSON, as a node of this number tells it.
func (e *Event) JSON(node int) []byte {
	s := shown{Event: e.Kind.String(), At: e.At, Node: node, ClientID: e.ClientID, Connection: e.Connection, Reason: e.Reason}
	switch e.Kind {
	case ClientConnected:
		e.peer(&s)
		s.CleanStart, s.SessionPresent, s.KeepAlive, s.SessionExpiry, s.Will = &e.CleanStart, &e.Present, &e.KeepAlive, &e.Expiry, &e.Will
	case ClientDisconnected:
		e.peer(&s)
		s.By, s.ReasonCode, s.Detail, s.BytesIn, s.BytesOut = e.By, &e.Code, e.Detail, &e.BytesIn, &e.BytesOut
		if e.Since != 0 {
			ms := max(e.At-e.Since, 0)
			s.ConnectedMS = &ms
		}
	case SessionCreated, SessionResumed, SessionTakenOver:
		s.User = &e.User
	case SessionSubscribed:
		s.User, s.Filter, s.Group, s.QoS, s.NoLocal = &e.User, &e.Filter, e.Group, &e.QoS, &e.NoLocal
	case SessionUnsubscribed:
		s.User, s.Filter, s.Group = &e.User, &e.Filter, e.Group
	default: // those of the core have no user
	}
	b, _ := json.Marshal(&s) // strings and numbers: it never fails
	return b
}

// peer fills in who is at the other end.
func (e *Event) peer(s *shown) {
	s.User, s.Listener, s.Protocol, s.TLS = &e.User, &e.Listener, &e.Protocol, &e.TLS
	if e.Remote != (netip.AddrPort{}) {
		address := e.Remote.String()
		s.Address = &address
	}
}
