package common

import (
	"strings"
	"testing"
	"time"
)

// KeepSending has a sender publish, at the next of the URLs each time its connection ends, until stop is closed and all is answered. It fails the
// test if the session is gone that was there.
func KeepSending(tb testing.TB, s *Sender, urls []string, stop <-chan struct{}) {
	tb.Helper()
	for i := 0; ; i++ {
		if err := s.Connect(urls[i%len(urls)]); err != nil {
			if strings.Contains(err.Error(), "is gone") {
				tb.Error(err)
				return
			}
			time.Sleep(20 * time.Millisecond) // a client's own pause
			continue
		}
		if err := s.Run(stop); err != nil {
			tb.Error(err)
			return
		}
		select {
		case <-stop:
			if len(s.open) == 0 {
				return
			}
		default:
		}
	}
}

// KeepReceiving has a receiver take messages, at the next of the URLs each time its connection ends, until stop is closed. ready is called once it
// is subscribed.
func KeepReceiving(tb testing.TB, r *Receiver, filter string, urls []string, stop <-chan struct{}, ready func()) {
	tb.Helper()
	go func() {
		<-stop
		r.End()
	}()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		err := r.Attach(urls[i%len(urls)], filter)
		if err != nil && strings.Contains(err.Error(), "is gone") {
			tb.Error(err)
			return
		}
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if ready != nil {
			ready()
			ready = nil
		}
		r.Wait()
	}
}
