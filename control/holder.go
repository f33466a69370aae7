package control

import (
	"fmt"
	"strconv"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
)

// loopLate is from when on a loop that has not come round is what holds its clients.
const loopLate = 100 * time.Millisecond

// repeatsLost is how often in a row the kernel has sent again before the network is to blame, and not the client.
const repeatsLost = 2

// judgement gathers what holds a client.
type judgement []*api.Holder

func (j *judgement) say(kind, format string, args ...any) {
	*j = append(*j, &api.Holder{Kind: kind, Why: fmt.Sprintf(format, args...)})
}

// judge says what holds a client, what counts most first: who does not read hears nothing, whatever else there is. delay is what its loop took to
// come round.
func judge(i *broker.ClientInfo, s *broker.ClientState, delay time.Duration) []*api.Holder {
	var j judgement
	j.peer(s)
	if s.SendOwed > 0 {
		j.say("quota", "what it was sent is over its consumer_byte_rate or a limit of its tenant, and paid for in %s", span(s.SendOwed))
	}
	j.window(i, s)
	j.input(s)
	j.core(i, s)
	switch {
	case delay >= loopLate:
		j.say("loop", "its loop took %s to come round", span(delay))
	case len(j) == 0 && s.Core.Behind:
		j.say("loop", "its queues hold more, which its loop sends in its next turns")
	}
	return j
}

// peer looks at the way to the client.
func (j *judgement) peer(s *broker.ClientState) {
	over := s.OutBytes > s.OutBound
	if s.Stalled > 0 {
		text := fmt.Sprintf("has taken nothing for %s; %s wait for it", span(s.Stalled), sizeText(int64(s.OutBytes)))
		kind := "peer"
		switch n := s.Network; {
		case n == nil:
		case n.Repeats >= repeatsLost:
			kind = "network"
			text += fmt.Sprintf(", and %d tries in a row to reach it had no answer", n.Repeats)
		case n.Full:
			text += ", and its own buffer is full: it does not read"
		}
		if over {
			text += fmt.Sprintf("; more than %s may not, so QoS 0 messages are dropped and others wait", sizeText(int64(s.OutBound)))
		}
		j.say(kind, "%s", text)
	}
	if over && s.OutBound < s.OutFull {
		j.say("memory", "the node is short of it: only %s may wait for a client, in place of %s", sizeText(int64(s.OutBound)), sizeText(int64(s.OutFull)))
	}
}

// window looks at what is in flight.
func (j *judgement) window(i *broker.ClientInfo, s *broker.ClientState) {
	if s.Window == 0 || i.InFlight < s.Window {
		return
	}
	text := fmt.Sprintf("%d of %d messages unacknowledged, none acknowledged for %s", i.InFlight, s.Window, span(s.Silent))
	if s.Window < s.ReceiveMax {
		text += fmt.Sprintf("; the node allows fewer than the %d that it has asked for", s.ReceiveMax)
	}
	if i.QueuedMessages > 0 {
		text += fmt.Sprintf("; %d more wait in memory", i.QueuedMessages)
	}
	if s.Core.Behind || s.Core.Stalled {
		text += "; more wait in the log"
	}
	j.say("window", "%s", text)
}

// input looks at why the client is not read from.
func (j *judgement) input(s *broker.ClientState) {
	for _, why := range s.NotRead {
		switch {
		case why == broker.PauseQuota:
			j.say("quota", "what it has sent is over a quota; it is read from again in %s", span(s.ReadOwed))
		case why == broker.PauseTenant:
			j.say("quota", "what its tenant's clients have sent is over a limit; it is read from again in %s", span(s.ReadOwed))
		case why == broker.PauseOrder: // what is under way says why
		case s.Core.Storage != nil:
			j.say("disk", "it is not read from: %s", plainError(s.Core.Storage))
		case why == broker.PauseLog:
			j.say("log", "it is not read from: what waits for the log has reached its bound")
		case why == broker.PauseAnswers:
			j.say("log", "it is not read from: %d that it has sent wait for the log", s.Unanswered)
		case why == broker.PauseRequests:
			j.say("log", "it is not read from: its subscriptions wait for the log")
		case why == broker.PauseConnect:
			j.say("log", "it is not read from: nobody leads the log yet")
		}
	}
}

// core looks at what it waits for behind the protocol.
func (j *judgement) core(i *broker.ClientInfo, s *broker.ClientState) {
	w := &s.Core
	if w.Commits > 0 && len(s.NotRead) == 0 {
		if w.Storage != nil {
			j.say("disk", "%d of its requests wait: %s", w.Commits, plainError(w.Storage))
		} else {
			j.say("log", "%d of its requests wait for their commit", w.Commits)
		}
	}
	full := s.Window > 0 && i.InFlight >= s.Window
	if w.Granting > 0 && !full {
		j.say("log", "%d QoS 2 messages to it wait for their identifiers' commit", w.Granting)
	}
	if w.Reading > 0 {
		what := "what its queues hold"
		if w.Resend > 0 {
			what = strconv.Itoa(w.Resend) + " messages to be sent again"
		}
		j.say("disk", "%s is being read from the log", what)
	}
	if w.Retained > 0 && !full {
		j.say("loop", "retained messages of %d subscriptions are sent in turns", w.Retained)
	}
	if w.Replays > 0 && !full {
		j.say("disk", "%d subscriptions read a stream's past", w.Replays)
	}
}

// span is a duration for a reader.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "1ms"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// sizeText is a number of bytes for a reader.
func sizeText(n int64) string {
	switch {
	case n < 1<<10:
		return strconv.FormatInt(n, 10) + "B"
	case n < 1<<20:
		return strconv.FormatFloat(float64(n)/(1<<10), 'f', 1, 64) + "KiB"
	case n < 1<<30:
		return strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64) + "MiB"
	}
	return strconv.FormatFloat(float64(n)/(1<<30), 'f', 1, 64) + "GiB"
}
