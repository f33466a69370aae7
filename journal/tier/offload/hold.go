package offload

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// A hold is an object that says which others are needed by somebody who is not asked: a backup, whose rows name them, or a node that came out of
// one. No node removes what is held. What has lost its row meanwhile is an orphan, and goes with the first search after the hold is gone.
const (
	holdPrefix   = "holds/"
	holdHead     = "sluice hold 1"
	holdNameMax  = 64
	holdBytesMax = 256 << 10
	// holdsMax is how many holds are read. If there are more, all is held.
	holdsMax = 4096
)

// held says what is needed: of each epoch the objects whose sequences are below a bound. A nil one stands for everything.
type held map[record.Epoch]uint64

func (h held) has(id object.ID) bool { return h == nil || id.Sequence < h[id.Epoch] }

// encode makes an object of it.
func (h held) encode() []byte {
	b := []byte(holdHead + "\n")
	if h == nil {
		return append(b, "all\n"...)
	}
	epochs := make([]record.Epoch, 0, len(h))
	for e := range h {
		epochs = append(epochs, e)
	}
	slices.Sort(epochs)
	for _, e := range epochs {
		b = fmt.Appendf(b, "%08x %016x\n", uint32(e), h[e])
	}
	return append(b, "end\n"...)
}

var errHold = errors.New("offload: no hold that this program knows")

// parseHold is its inverse.
func parseHold(b []byte) (held, error) {
	body, ok := bytes.CutPrefix(b, []byte(holdHead+"\n"))
	if !ok {
		return nil, errHold
	}
	if string(body) == "all\n" {
		return nil, nil
	}
	h := make(held)
	sc := bufio.NewScanner(bytes.NewReader(body))
	for sc.Scan() {
		line := sc.Text()
		if line == "end" && !sc.Scan() && sc.Err() == nil {
			return h, nil
		}
		epoch, below, ok := strings.Cut(line, " ")
		e, err := strconv.ParseUint(epoch, 16, 31)
		n, err2 := strconv.ParseUint(below, 16, 64)
		if !ok || len(epoch) != 8 || len(below) != 16 || err != nil || err2 != nil {
			return nil, errHold
		}
		h[record.Epoch(e)] = n
	}
	return nil, errHold // it has been cut
}

func holdName(name string) (string, error) {
	if name == "" || len(name) > holdNameMax || strings.ContainsAny(name, "/~") || tier.CheckName(holdPrefix+name) != nil {
		return "", fmt.Errorf("offload: bad name of a hold: %.80q", name)
	}
	return holdPrefix + name, nil
}

// HoldAll has no node remove any object of the store until Release, or until Hold of that name says which it may. It may be called again. Holds lie in the store,
// and each Offloader asks for them before it removes: HoldAll, Hold and Release do not need one that makes turns.
func (f *Offloader) HoldAll(ctx context.Context, name string) error { return f.hold(ctx, name, nil) }

// Hold has no node remove the objects that the manifest has, or has had in this run, until Release. It takes the place of a hold of that name. Who is to
// need what the manifest had at a moment calls HoldAll before it, and Hold afterwards: what has lost its row since is held too. So is what this Offloader is about
// to have a row for. Where another one asks for rows, it has to be called when they have been applied.
func (f *Offloader) Hold(ctx context.Context, name string) error {
	f.mu.Lock()
	last := f.mu.named
	f.mu.Unlock()
	h := f.o.Manifest.Reached()
	if last.Epoch != 0 {
		h[last.Epoch] = max(h[last.Epoch], last.Sequence+1)
	}
	return f.hold(ctx, name, h)
}

func (f *Offloader) hold(ctx context.Context, name string, h held) error {
	path, err := holdName(name)
	if err != nil {
		return err
	}
	b := h.encode()
	if len(b) > holdBytesMax {
		return fmt.Errorf("offload: a hold of %d epochs is too large", len(h))
	}
	return f.request(ctx, "hold objects", func(ctx context.Context) error {
		f.stats.Puts.Add(1)
		return f.o.Store.Put(ctx, path, bytes.NewReader(b), int64(len(b)), tier.PutOptions{})
	})
}

// Release removes a hold, and tells whether there was one.
func (f *Offloader) Release(ctx context.Context, name string) (found bool, err error) {
	path, err := holdName(name)
	if err != nil {
		return false, err
	}
	err = f.request(ctx, "release objects", func(ctx context.Context) error {
		_, err := f.o.Store.Stat(ctx, path)
		if errors.Is(err, tier.ErrNotFound) {
			return nil
		}
		if err == nil {
			found = true
			err = f.o.Store.Delete(ctx, path)
		}
		return err
	})
	return found, err
}

// request makes a short request, from any goroutine.
func (f *Offloader) request(ctx context.Context, what string, call func(context.Context) error) error {
	ctx, leave, err := f.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := f.again(ctx, call); err != nil {
		return fmt.Errorf("offload: %s: %w", what, err)
	}
	return nil
}

// holds reads what is held by all holds of the store. One that it cannot read may hold anything.
func (f *Offloader) holds(ctx context.Context) (held, error) {
	h, n := make(held), 0
	err := f.list(ctx, holdPrefix, "", func(i *tier.Info) error {
		if n++; n > holdsMax {
			return errEnough
		}
		var one held
		err := f.again(ctx, func(ctx context.Context) error {
			body, _, err := f.o.Store.Get(ctx, i.Name, tier.Range{})
			if err != nil {
				return err
			}
			b, err := io.ReadAll(io.LimitReader(body, holdBytesMax+1))
			if err = errors.Join(err, body.Close()); err == nil {
				one, err = parseHold(b)
			}
			return err
		})
		switch {
		case errors.Is(err, tier.ErrNotFound): // it was released just now
			return nil
		case errors.Is(err, errHold):
			f.log.Warn("a hold cannot be read: nothing is removed from the store", "object", i.Name)
			return errEnough
		case err != nil:
			return err
		case one == nil:
			return errEnough
		}
		for e, below := range one {
			h[e] = max(h[e], below)
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("offload: look for holds: %w", err)
	}
	return h, nil
}

// foreignHold is the hold of a node for what others have written.
func foreignHold(e record.Epoch) string { return fmt.Sprintf("node-%08x", uint32(e)) }

// guard sees to it that what this node needs of other nodes' objects stays: it has come out of a backup, or been rebuilt, and those that wrote them
// may live, and need them no more. The hold is there with the first turn, is renewed after each search, and goes when the node needs none of them.
func (f *Offloader) guard(ctx context.Context) error {
	if f.guarded {
		return nil
	}
	if h := f.foreign(f.ownEpochs()); len(h) > 0 {
		if err := f.name(ctx); err != nil {
			return err
		}
		if err := f.hold(ctx, foreignHold(f.epoch), h); err != nil {
			return err
		}
		if err := f.releaseEarlier(ctx); err != nil {
			return err
		}
	}
	f.guarded = true
	return nil
}

// foreign are the objects of the manifest in epochs that are not the node's own.
func (f *Offloader) foreign(own map[record.Epoch]bool) held {
	h := make(held)
	for o := range f.o.Manifest.All() {
		if !own[o.ID.Epoch] {
			h[o.ID.Epoch] = max(h[o.ID.Epoch], o.ID.Sequence+1)
		}
	}
	return h
}

// releaseEarlier removes the holds of earlier leads: this one's has taken their place.
func (f *Offloader) releaseEarlier(ctx context.Context) error {
	if !f.o.Shared {
		return nil
	}
	names := make(map[string]bool)
	for e := range f.ownEpochs() {
		if e != f.epoch {
			names[holdPrefix+foreignHold(e)] = true
		}
	}
	var old []string
	err := f.list(ctx, holdPrefix, "", func(i *tier.Info) error {
		if names[i.Name] {
			old = append(old, i.Name)
		}
		return nil
	})
	if err != nil || !f.leads() {
		return err
	}
	for _, name := range old {
		if err := f.again(ctx, func(ctx context.Context) error { return f.o.Store.Delete(ctx, name) }); err != nil {
			return fmt.Errorf("offload: release what an earlier lead has held: %w", err)
		}
	}
	return nil
}

// releaseForeign removes the node's own hold once it needs nothing of others.
func (f *Offloader) releaseForeign(ctx context.Context) error {
	own := f.ownEpochs()
	if len(f.foreign(own)) > 0 {
		f.guarded = false
		return nil
	}
	if !f.leads() {
		return nil // own may have another node's by now
	}
	for e := range own {
		name := holdPrefix + foreignHold(e)
		err := f.again(ctx, func(ctx context.Context) error {
			_, err := f.o.Store.Stat(ctx, name)
			if errors.Is(err, tier.ErrNotFound) {
				return nil
			}
			if err == nil {
				err = f.o.Store.Delete(ctx, name)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("offload: release what other nodes have written: %w", err)
		}
	}
	return nil
}
