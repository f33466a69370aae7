package tier

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// Entry is what a folder of a store has: another folder, or an object.
type Entry struct {
	Name   string // without the folder's
	Folder bool
	// Info tells about an object; it is only called for those that a page takes. Its name is set by Walk. ErrNotFound: it has gone.
	Info func() (Info, error)
}

// Walk is List for stores that have folders. read gives the entries of a folder, whose name is "" or ends with a slash, in any order; of
// one that is not there, none.
func Walk(ctx context.Context, prefix, after string, limit int, read func(folder string) ([]Entry, error)) ([]Info, bool, error) {
	if limit <= 0 || limit > MaxPage {
		limit = MaxPage
	}
	w := walk{ctx: ctx, prefix: prefix, after: after, limit: limit, read: read}
	// All names begin with the folders that the prefix names: what lies beside those need not be read.
	start := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if err := w.folder(start); err != nil {
		return nil, false, err
	}
	return w.page, w.more, nil
}

type walk struct {
	ctx           context.Context
	prefix, after string
	limit         int
	read          func(string) ([]Entry, error)
	page          []Info
	more          bool
}

func (w *walk) folder(folder string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	entries, err := w.read(folder)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return !w.wanted(folder, &e) })
	// Names below a folder begin with its own and a slash; with that they sort as whole names do.
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.key(), b.key()) })
	for i := range entries {
		if w.more {
			return nil
		}
		if err := w.entry(folder, &entries[i]); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) entry(folder string, e *Entry) error {
	if e.Folder {
		return w.folder(folder + e.key())
	}
	if len(w.page) == w.limit {
		w.more = true
		return nil
	}
	info, err := e.Info()
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	info.Name = folder + e.Name
	w.page = append(w.page, info)
	return nil
}

func (e *Entry) key() string {
	if e.Folder {
		return e.Name + "/"
	}
	return e.Name
}

// wanted tells whether an object, or what may be below a folder, belongs behind after and has the prefix.
func (w *walk) wanted(folder string, e *Entry) bool {
	name := folder + e.key()
	if e.Folder {
		return (strings.HasPrefix(name, w.prefix) || strings.HasPrefix(w.prefix, name)) && (name > w.after || strings.HasPrefix(w.after, name))
	}
	return strings.HasPrefix(name, w.prefix) && name > w.after
}
