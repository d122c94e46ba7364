package node

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/projection"
)

// errUnchanged says that a setting is to stay as it is.
var errUnchanged = errors.New("unchanged")

// editSetting replaces a setting of the app, or with an empty app of the cluster, by
// what edit makes of the one that is held (nil: none): its value (nil: it is
// deleted) and its private part. Whoever changes the same meanwhile wins, and edit
// is called again with what they wrote; its error is returned, errUnchanged as
// none. The position is that of the setting as it stands then.
func (n *Node) editSetting(ctx context.Context, app, typ, name, by string, edit func(snap *projection.Snapshot, held *events.Setting) (json.RawMessage, []byte, error)) (events.Position, error) {
	for range attempts {
		snap, err := n.administer()
		if err != nil {
			return events.Position{}, err
		}
		held, _ := snap.Setting(app, typ, name)
		e := &events.Setting{App: app, Type: typ, Name: name, By: by}
		e.Prev = snap.Last(e)
		var private []byte
		if e.Value, private, err = edit(snap, held); errors.Is(err, errUnchanged) {
			return n.settings.at(e.Prev), nil
		} else if err != nil {
			return events.Position{}, err
		}
		e.At = n.wall()
		pos, err := n.configure(ctx, e, private, 0, e.Prev)
		if !errors.Is(err, events.ErrConflict) {
			return pos, err
		}
		if err := n.settings.catchUp(ctx, e); err != nil {
			return events.Position{}, err
		}
	}
	return events.Position{}, events.ErrConflict
}
