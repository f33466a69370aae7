package mqtt

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// failure is a reason code with the constant text that explains it.
type failure struct {
	code   wire.ReasonCode
	detail string
}

// Error gives the reason's name and the text.
func (f *failure) Error() string { return "mqtt: " + f.code.String() + ": " + f.detail }

// What a connection is refused or ended with, beside wire's errors. All are constant: hostile input costs no allocation.
var (
	failSecondConnect   = &failure{wire.ProtocolErrorCode, "a second CONNECT"}
	failServerPacket    = &failure{wire.ProtocolErrorCode, "a packet that only servers send"}
	failAuthPacket      = &failure{wire.ProtocolErrorCode, "AUTH without an authentication method in CONNECT"}
	failAuthMethod      = &failure{wire.BadAuthenticationMethod, "authentication method is not offered"}
	failOtherMethod     = &failure{wire.ProtocolErrorCode, "another authentication method than that of CONNECT"}
	failAuthOrder       = &failure{wire.ProtocolErrorCode, "AUTH is not what comes next"}
	failInBetween       = &failure{wire.ProtocolErrorCode, "a packet in the middle of authentication"}
	failAuthLarge       = &failure{wire.PacketTooLarge, "AUTH is larger than the client takes"}
	failOtherUser       = &failure{wire.NotAuthorized, "the user cannot be changed by re-authentication"}
	failClientIDEmpty   = &failure{wire.ClientIdentifierNotValid, "an empty client identifier needs a clean session"}
	failClientIDLong    = &failure{wire.ClientIdentifierNotValid, "client identifier is too long"}
	failCredentials     = &failure{wire.BadUserNameOrPassword, "bad user name or password"}
	failNotAuthorized   = &failure{wire.NotAuthorized, "not authorized"}
	failAuthBusy        = &failure{wire.ServerBusy, "too many clients are being verified"}
	failShuttingDown    = &failure{wire.ServerShuttingDown, "server is shutting down"}
	failUnavailable     = &failure{wire.ServerUnavailable, "server cannot take the connection now"}
	failMoved           = &failure{wire.ServerMoved, "use the other server from now on"}
	failElsewhere       = &failure{wire.UseAnotherServer, "another node of the cluster serves the client"}
	failUseAnother      = &failure{wire.UseAnotherServer, "use another server"}
	failWillQoS         = &failure{wire.QoSNotSupported, "will QoS is higher than the maximum"}
	failWillRetain      = &failure{wire.RetainNotSupported, "retained wills are not supported"}
	failWillTopic       = &failure{wire.TopicNameInvalid, "will topic is not allowed"}
	failWillACL         = &failure{wire.NotAuthorized, "not authorized to publish the will"}
	failWillPayload     = &failure{wire.PayloadFormatInvalid, "will payload is not UTF-8"}
	failExpired         = &failure{wire.NotAuthorized, "what has vouched for the client has ended"}
	failSilent          = &failure{wire.KeepAliveTimeout, "nothing has come from it for one and a half times its keep-alive"}
	failLost            = &failure{wire.UnspecifiedError, "its connection has ended without a DISCONNECT"}
	failTakenOver       = &failure{wire.SessionTakenOver, "another connection uses the client identifier"}
	failAdmin           = &failure{wire.AdministrativeAction, "ended by an administrator"}
	failBanned          = &failure{wire.Banned, "banned"}
	failBannedNow       = &failure{wire.AdministrativeAction, "banned"} // DISCONNECT has no other word for it
	failNoLongerAllowed = &failure{wire.NotAuthorized, "a subscription is no longer allowed"}
	failReceiveMax      = &failure{wire.ReceiveMaximumExceeded, "more unanswered messages than the receive maximum"}
	failAliasRange      = &failure{wire.TopicAliasInvalid, "topic alias is above the maximum"}
	failAliasUnknown    = &failure{wire.ProtocolErrorCode, "topic alias was never set"}
	failQoS             = &failure{wire.QoSNotSupported, "QoS is higher than the maximum"}
	failRetain          = &failure{wire.RetainNotSupported, "retained messages are not supported"}
	failAckType         = &failure{wire.ProtocolErrorCode, "acknowledgement does not fit the message's QoS"}
	failExpiryRaised    = &failure{wire.ProtocolErrorCode, "session expiry was 0 and cannot be set at the end"}
	failQueueFull       = &failure{wire.QuotaExceeded, "too many messages wait for this client"}
	failConnectRate     = &failure{wire.ConnectionRateExceeded, "too many connections of this address"}
	failMemory          = &failure{wire.ServerBusy, "server is short of memory"}
	failStuck           = &failure{wire.QuotaExceeded, "client has taken nothing for too long"}
	failStorage         = &failure{wire.ImplementationSpecific, "message cannot be stored"}
	failTenantConns     = &failure{wire.QuotaExceeded, "the tenant has as many connections as it may"}
	failTenantRate      = &failure{wire.QuotaExceeded, "the tenant's clients connect too often"}
	failQuota           = &failure{wire.QuotaExceeded, "quota exceeded"}
	failTopicLimit      = &failure{wire.TopicNameInvalid, "topic name has too many bytes or levels"}
	failMount           = &failure{wire.NotAuthorized, "no topic prefix for the client at this listener: it has no user, or its id or user has /, + or #"}
	failTopicReserved   = &failure{wire.NotAuthorized, "topic is the server's own"}
	failDelayed         = &failure{wire.TopicNameInvalid, "want $delayed/SECONDS/TOPIC or $delayed/cancel/TOPIC"}
	failDelayedNotYet   = &failure{wire.ImplementationSpecific, "delayed publishing is not offered before all nodes of the cluster are upgraded"}
	failDelayedOff      = &failure{wire.TopicNameInvalid, "delayed publishing is not offered"}
	failDelayedLong     = &failure{wire.QuotaExceeded, "delay is longer than the maximum"}
	failPublishACL      = &failure{wire.NotAuthorized, "not authorized to publish to the topic"}
	failPayload         = &failure{wire.PayloadFormatInvalid, "payload is not UTF-8"}
	failInternal        = &failure{wire.UnspecifiedError, "request failed"}
	failFrom            = &failure{wire.ImplementationSpecific, failNotStored}
	failFilter          = &failure{wire.TopicFilterInvalid, "topic filter is not valid or outside the limits"}
	failSubscribeACL    = &failure{wire.NotAuthorized, "not authorized to subscribe to the filter"}
	failShared          = &failure{wire.SharedNotSupported, "shared subscriptions are not supported"}
	failWildcards       = &failure{wire.WildcardsNotSupported, "wildcards are not supported"}
	failSubIDs          = &failure{wire.SubscriptionIDsNotSupported, "subscription identifiers are not supported"}
)

// asFailure finds the code and text that err is answered with.
func asFailure(err error) failure {
	var f *failure
	var p *wire.ProtocolError
	switch {
	case errors.As(err, &f):
		return *f
	case errors.As(err, &p):
		return failure{p.Reason, p.Detail}
	}
	return *failInternal
}

// coreFailure translates the core's answer to a publish, subscribe or release.
func coreFailure(err error) *failure {
	switch {
	case errors.Is(err, broker.ErrQuota):
		return failQuota
	case errors.Is(err, broker.ErrNotYet):
		return failDelayedNotYet
	case errors.Is(err, broker.ErrUnavailable):
		return failStorage
	case errors.Is(err, broker.ErrFilter):
		return failFilter
	case errors.Is(err, broker.ErrClosed):
		return failShuttingDown
	case errors.Is(err, broker.ErrNotLeader):
		return failElsewhere
	}
	return failInternal
}

// connectFailure translates what stops a CONNECT.
func connectFailure(err error) *failure {
	switch {
	case errors.Is(err, broker.ErrBadCredentials):
		return failCredentials
	case errors.Is(err, broker.ErrBanned):
		return failBanned
	case errors.Is(err, broker.ErrNotAuthorized):
		return failNotAuthorized
	case errors.Is(err, broker.ErrAuthBusy), errors.Is(err, broker.ErrBusy), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, context.Canceled):
		return failAuthBusy
	case errors.Is(err, broker.ErrQuota):
		return failQuota
	case errors.Is(err, broker.ErrUnavailable), errors.Is(err, broker.ErrClosed), errors.Is(err, broker.ErrNotLeader):
		return failUnavailable
	}
	return failInternal
}

// kickFailure translates why the core ends a connection.
func kickFailure(why error) *failure {
	switch {
	case errors.Is(why, broker.ErrTakenOver):
		return failTakenOver
	case errors.Is(why, broker.ErrClosed):
		return failShuttingDown
	case errors.Is(why, broker.ErrQuota):
		return failQueueFull
	case errors.Is(why, broker.ErrUnavailable):
		return failStorage
	case errors.Is(why, broker.ErrNotLeader):
		return failElsewhere
	}
	return failAdmin
}

// Log lines about clients: so many a second and loop, with a burst of the same; the rest is counted and said later.
const misbehaviourLines = 10

// remoteText is a peer's address as a log line has it.
func remoteText(a netip.AddrPort) string {
	if !a.IsValid() {
		return "unix"
	}
	return a.String()
}

// misbehaved writes the one line about a client that was refused or ended for what it did. Nothing in it is secret.
func (c *conn) misbehaved(f failure) {
	l := c.l
	l.n.Misbehaved++
	if sec := l.loop.NowMono() / int64(time.Second); sec != l.logSecond {
		l.logSecond, l.logLines = sec, 0
	}
	if l.logLines++; l.logLines > misbehaviourLines {
		l.logSkipped++
		return
	}
	attrs := []any{slog.String("client_id", c.clientID()), slog.String("remote", remoteText(c.link.Remote())),
		slog.String("reason", f.code.String()), slog.String("detail", f.detail)}
	if l.logSkipped > 0 {
		attrs = append(attrs, slog.Uint64("lines_left_out", l.logSkipped))
		l.logSkipped = 0
	}
	l.h.log.Warn("mqtt client misbehaved", attrs...)
}
